# SPDX-License-Identifier: Apache-2.0
"""torch.export: a call that drops nothing is exported as the unpruned one, others are refused by name."""

import pytest
import tiny_families
import tiny_models
import torch

import tokenprune

MODELS = {
    "llava": lambda: (tiny_models.llava(), tiny_models.llava_inputs((3, "I", 5))),
    "internvl": lambda: (tiny_families.build("internvl"), tiny_families.inputs("internvl", (3, "I", 5))),
}
METHODS = {
    "divprune": {},
    "hiprune": {},
    "pyramiddrop": {"layer": (1, 2)},
}


def exported(model, inputs, strict=False):
    return torch.export.export(model, (), {**inputs, "use_cache": False}, strict=strict)


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_keeping_all_exports(method):
    model, inputs = MODELS["llava"]()
    want = model(**inputs, use_cache=False).logits
    with tokenprune.apply(model, method=method, keep=16, **METHODS[method]):
        program = exported(model, inputs)
    assert torch.equal(program.module()(**inputs, use_cache=False).logits, want)


@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")
@torch.no_grad()
def test_keeping_all_exports_in_strict_mode():
    model, inputs = MODELS["llava"]()
    want = model(**inputs, use_cache=False).logits
    with tokenprune.apply(model, method="divprune", keep=16):
        program = exported(model, inputs, strict=True)
    assert torch.equal(program.module()(**inputs, use_cache=False).logits, want)


@torch.no_grad()
def test_another_family_exports():
    model, inputs = MODELS["internvl"]()
    want = model(**inputs, use_cache=False).logits
    with tokenprune.apply(model, method="divprune", keep=400):
        program = exported(model, inputs)
    assert torch.equal(program.module()(**inputs, use_cache=False).logits, want)


@pytest.mark.parametrize(("name", "method"), [("llava", "divprune"), ("internvl", "pyramiddrop")])
@torch.no_grad()
def test_dropping_tokens_is_refused_by_name(name, method):
    model, inputs = MODELS[name]()
    with tokenprune.apply(model, method=method, keep=3, **METHODS[method]) as handle:
        with pytest.raises(tokenprune.UnsupportedCallError, match=f"torch.export cannot trace '{method}'"):
            exported(model, inputs)
        model(**inputs)  # and the model goes on as before
        assert len(handle.last.images[0].kept) == 3


@torch.no_grad()
def test_an_image_below_min_tokens_exports():
    model, inputs = MODELS["llava"]()
    want = model(**inputs, use_cache=False).logits
    with tokenprune.apply(model, method="divprune", keep=3, min_tokens=17):
        program = exported(model, inputs)
    assert torch.equal(program.module()(**inputs, use_cache=False).logits, want)
