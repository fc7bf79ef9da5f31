# SPDX-License-Identifier: Apache-2.0
"""What adapters say of models whose parts are others than usual: no closed form, no rows, no module."""

import pytest
import tiny_families
import tiny_models
import torch
from tiny_models import IMAGE
from torch import nn
from transformers import GenerationMixin

import tokenprune
from tokenprune.testing import check_model


def adapter_of(model):
    return tokenprune.default_registry().adapter_for(model)(model)


class Bent(nn.Module):
    """A linear layer and a bend: no matrix describes it."""

    def __init__(self, linear):
        super().__init__()
        self.inner = linear

    def forward(self, rows):
        return self.inner(rows) + 0.1 * self.inner(rows).sin()


def bend(module, name):
    module._modules[name] = Bent(module._modules[name])


BENT = {
    "internvl": lambda model: bend(model.model.multi_modal_projector, "linear_1"),
    "paligemma": lambda model: bend(model.model.multi_modal_projector, "linear"),
    "qwen3_vl": lambda model: bend(model.model.visual.merger, "linear_fc2"),
    "qwen2_5_vl": lambda model: bend(model.model.visual.merger.mlp, "0"),
}


@pytest.mark.parametrize("name", BENT)
def test_a_projector_that_no_matrices_describe_is_derived_instead(name):
    """zoo-exact's scores are those of the projector's Jacobian all the same."""
    model = tiny_models.qwen() if name == "qwen2_5_vl" else tiny_families.build(name)
    assert adapter_of(model).current_projector().linear_form() is not None
    BENT[name](model)
    projector = adapter_of(model).current_projector()
    assert projector.linear_form() is None
    seen = []

    class Look(tokenprune.Scorer):
        name, needs = "look", frozenset({"pre_features", "projector"})

        def score(self, tokens):
            seen.append((tokens.signal("pre_features"), tokenprune.scorer("zoo-exact").score(tokens)))
            return torch.zeros(len(tokens))

    if name == "qwen2_5_vl":
        inputs = tiny_models.qwen_inputs((3, ("I", 4, 6), 5))
    else:
        inputs = tiny_families.inputs(name, (3, "I", 5))
    with tokenprune.apply(model, scorer=Look(), keep=3):
        model(**inputs)
    ((rows, scores),) = seen
    jacobian = torch.autograd.functional.jacobian(projector, rows[1:2].float())
    torch.testing.assert_close(scores[1], jacobian.norm() / rows[1].numel() ** 0.5, rtol=2e-3, atol=1e-4)


def test_a_model_without_a_projector_row_by_row_has_none_to_call():
    model = tiny_families.build("aria")
    adapter = adapter_of(model)
    assert "projector" not in adapter.provides["projector"]
    with pytest.raises(
        tokenprune.IncompatibleError, match="projector of this model does not work row by row"
    ):
        adapter.projector()(torch.zeros(1, 4))
    with pytest.raises(tokenprune.IncompatibleError, match="projector"):
        tokenprune.apply(model, method="zoo-exact", keep=3)


def test_a_videos_newline_that_comes_later_is_counted():
    """As in transformers 5.17, where the encoder's rows of a video lack it; a picture's has its own."""
    model = tiny_families.build("llava_onevision")
    adapter, newline = adapter_of(model), model.model.image_newline
    rows = torch.zeros(2, 5, len(newline))
    assert [found.tolist() for found in adapter.newlines(rows)] == [[False] * 5 + [True]] * 2
    assert adapter.lengths(rows) == [6, 6]
    rows[:, -1] = newline
    assert [found.tolist() for found in adapter.newlines(rows)] == [[False] * 4 + [True]] * 2
    pictures = [torch.zeros(3, len(newline)), rows[0]]
    assert [found.tolist() for found in adapter.newlines(pictures)] == [[False] * 3, [False] * 4 + [True]]
    assert adapter.lengths(pictures) == [3, 5]


def test_a_part_that_is_no_module_is_refused(install_plugin):
    install_plugin(
        """
        from tokenprune_adapters.authoring import Family, FamilyAdapter

        class Wrong(FamilyAdapter):
            name = "wrong"
            families = {"MyLlava": Family()}

            @property
            def language_model(self):
                return self.model.config

        @tokenprune.hookimpl
        def tokenprune_adapters():
            return [Wrong]
        """
    )
    model = tiny_models.llava()
    model.config.layers, model.config.rotary_emb = [], None
    model.__class__ = type("MyLlava", (GenerationMixin, nn.Module), dict(vars(type(model))))
    with pytest.raises(
        tokenprune.UnsupportedModelError, match="'wrong' does not fit MyLlava: .* LlavaConfig"
    ):
        tokenprune.apply(model, method="divprune", keep=3)


def test_a_picture_for_pixtrals_tower_has_a_size():
    model = tiny_models.pixtral_llava()
    inputs = adapter_of(model).example_inputs()
    assert inputs["image_sizes"].tolist() == [[48, 40]]
    assert int((inputs["input_ids"] == IMAGE).sum()) == 6 * 5
    check = check_model(model, methods=["divprune"], keep=7)
    assert check.passed, str(check)
