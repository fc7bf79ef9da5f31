# SPDX-License-Identifier: Apache-2.0
"""What the families beyond the main three give strategies to see, and what they refuse."""

import pytest
import tiny_families as families
import torch
from family_cases import KEEP, TOLERANCE

import tokenprune


class Look(tokenprune.Scorer):
    """Keeps what it was shown."""

    name = "look"

    def __init__(self, *needs):
        self.asked, self.seen = frozenset(needs), []

    @property
    def needs(self):
        return self.asked

    def score(self, tokens):
        self.seen.append((tokens, {name: tokens.signal(name) for name in self.asked}))
        return torch.zeros(len(tokens))


ALIGNED = (
    "qwen2_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen2_5_omni",
    "qwen3_omni",
    "internvl",
    "gemma3",
    "gemma4_e",
    "gemma4",
    "smolvlm",
    "idefics3",
    "mistral3",
    "paligemma",
)


@pytest.mark.parametrize("name", [name for name in ALIGNED if name in families.CLASSES])
def test_projector_rows_are_those_of_the_tokens_and_the_closed_form_is_the_projector(name):
    model, inputs, look = families.model(name), families.inputs(name), Look("pre_features", "projector")
    with tokenprune.apply(model, scorer=look, keep=KEEP):
        model(**inputs)
    assert len(look.seen) == 3
    for tokens, signals in look.seen:
        rows, projector = signals["pre_features"], signals["projector"]
        torch.testing.assert_close(projector(rows), tokens.features, **TOLERANCE)
        form = projector.linear_form()
        torch.testing.assert_close(form(rows.float()), tokens.features, **TOLERANCE)
        score = tokenprune.scorer("zoo-exact").score(tokens)
        for i in (0, len(tokens) - 1):
            jacobian = torch.autograd.functional.jacobian(projector, rows[i : i + 1].float())
            want = jacobian.norm() / rows[i].numel() ** 0.5
            torch.testing.assert_close(score[i], want, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["glm4v", "glm4v_moe", "glm46v", "aya_vision"])
def test_a_gated_projector_has_rows_and_no_closed_form(name):
    model, look = families.model(name), Look("pre_features", "projector")
    with tokenprune.apply(model, scorer=look, keep=KEEP):
        model(**families.inputs(name))
    assert len(look.seen) == 3
    for tokens, signals in look.seen:
        rows, projector = signals["pre_features"], signals["projector"]
        torch.testing.assert_close(projector(rows), tokens.features, **TOLERANCE)
        assert projector.linear_form() is None
        score = tokenprune.scorer("zoo-exact").score(tokens)
        for i in (0, len(tokens) - 1):
            jacobian = torch.autograd.functional.jacobian(projector, rows[i : i + 1].float())
            want = jacobian.norm() / rows[i].numel() ** 0.5
            torch.testing.assert_close(score[i], want, rtol=2e-3, atol=1e-4)


def test_layouts():
    def layout(name):
        model = families.model(name)
        with tokenprune.apply(model, method="stride", keep=KEEP) as handle:
            model(**families.inputs(name, (3, "I", 5)))
            return handle.last.images[0].layout

    assert layout("internvl").grid == (1, 4, 4)
    assert layout("idefics3").grid == (1, 2, 2)
    assert layout("qwen3_vl").grid == (1, 4, 6)
    newlines = layout("llava_onevision").newlines.nonzero().squeeze(1).tolist()
    assert newlines == [24, 33, 42, 51]  # 16 tokens of the base view, then rows of 8 and a newline


def test_what_a_family_cannot_do_is_refused_with_the_reason():
    refused = [
        ("gemma3", {"method": "fastv"}, "attend to each other"),
        ("paligemma", {"method": "sparsevlm"}, "attend to each other"),
        ("gemma3", {"method": "stride", "positions": "original"}, "it allows: contiguous"),
        ("qwen3_vl", {"method": "stride", "positions": "contiguous"}, "it allows: original"),
        ("qwen3_vl", {"method": "fastv"}, "from 2 on"),
        ("qwen3_vl", {"method": "pool"}, "a new row has none"),
        ("llava_onevision", {"method": "zoo-exact"}, "needs the signal pre_features"),
        ("internvl", {"method": "visionzip"}, "cls_attention"),
    ]
    for name, call, words in refused:
        with pytest.raises(tokenprune.IncompatibleError, match=words):
            tokenprune.apply(families.model(name), keep=KEEP, **call)
        assert not tokenprune.is_pruned(families.model(name))
