# SPDX-License-Identifier: Apache-2.0
"""Settings that change while a model is pruned: without effect on the choice, honoured, or refused."""

import pytest
import tiny_models
import torch

import tokenprune

LAYERS = {"fastv": 2, "dart": 2, "pyramiddrop": (1, 2), "sparsevlm": (1, 2, 3), "sparsevlm-plus": (1, 2, 3)}
INPUTS = tiny_models.llava_inputs((3, "I", 5), (2, "I", 4))
METHODS = [name for name in tokenprune.list_methods() if name != "cdpruner"]  # it needs CLIP's own head


def prune(model, method):
    return tokenprune.apply(model, method=method, keep=5, layer=LAYERS.get(method))


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_the_default_dtype_changes_no_choice(method):
    model = tiny_models.llava()
    with prune(model, method) as handle:
        want = model(**INPUTS).logits
        kept = [image.kept.tolist() for image in handle.last.images]
        for dtype in (torch.float64, torch.bfloat16, torch.float16):
            torch.set_default_dtype(dtype)
            try:
                logits = model(**INPUTS).logits
            finally:
                torch.set_default_dtype(torch.float32)
            assert [image.kept.tolist() for image in handle.last.images] == kept
            assert torch.equal(logits, want)


@pytest.mark.parametrize("method", ["visionzip", "divprune", "zoo-exact", "fastv"])
@pytest.mark.parametrize("name", ["vision_feature_layer", "vision_feature_select_strategy"])
def test_another_layer_of_the_tower_is_refused(name, method):
    model = tiny_models.llava()
    value = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}[name]
    with prune(model, method):
        old = getattr(model.config, name)
        setattr(model.config, name, value)
        with pytest.raises(tokenprune.UnsupportedCallError, match=f"{name} was {old!r} .* is {value!r} now"):
            model(**INPUTS)
        setattr(model.config, name, old)
        model(**INPUTS)


@pytest.mark.parametrize("method", ["visionzip", "fastv", "pyramiddrop"])
@torch.no_grad()
def test_another_attention_implementation_is_honoured(method):
    model = tiny_models.llava()
    with prune(model, method):
        want = model(**INPUTS).logits
        model.set_attn_implementation("eager")
        torch.testing.assert_close(model(**INPUTS).logits, want, atol=1e-4, rtol=1e-4)
    model.set_attn_implementation("sdpa")
    assert model.model.language_model.layers[1].self_attn.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(("method", "part"), [("fastv", "language_model"), ("pyramiddrop", "language_model")])
def test_flash_attention_switched_on_afterwards_is_refused(method, part):
    model = tiny_models.llava()
    config = getattr(model.model, part).config
    with prune(model, method):
        config._attn_implementation_internal = "kernels-community/flash-attn2"
        try:
            with pytest.raises(tokenprune.UnsupportedCallError, match="call remove"):
                getattr(model.model, part).layers[1].self_attn(
                    torch.zeros(1, 2, 64), position_embeddings=(torch.zeros(1, 2, 16), torch.zeros(1, 2, 16))
                )
        finally:
            config._attn_implementation_internal = "sdpa"
