# SPDX-License-Identifier: Apache-2.0
"""Variants of methods: named in the refusal, and taken with `variant="auto"`."""

import pytest
import tiny_families as families
import tiny_models
import torch

import tokenprune
from tokenprune import PluginConflictError


def kept(model, inputs, **call):
    with tokenprune.apply(model, keep=6, **call) as handle:
        logits = model(**inputs).logits
        return handle.cuts[0].method.name, handle.last.images[0].kept.tolist(), logits


@pytest.mark.parametrize("method", ["visionzip", "vispruner", "scope"])
def test_the_refusal_names_the_variant_and_auto_takes_it(method):
    model, inputs = families.model("qwen2_vl"), families.inputs("qwen2_vl", (3, "I", 5))
    variant = f"{method}-received"
    with pytest.raises(tokenprune.IncompatibleError) as error:
        tokenprune.apply(model, method=method, keep=6)
    assert str(error.value).startswith("the scorer 'attention' needs the signal cls_attention")
    advice = f"Its variant '{variant}' runs on this model: give method='{variant}', or variant='auto'"
    assert str(error.value).endswith(advice)
    assert not tokenprune.is_pruned(model)
    automatic = kept(model, inputs, method=method, variant="auto")
    direct = kept(model, inputs, method=variant)
    assert kept(model, inputs, method=tokenprune.method(method), variant="auto")[:2] == direct[:2]
    assert automatic[:2] == direct[:2] and automatic[0] == variant
    assert torch.equal(automatic[2], direct[2])


def test_a_method_that_runs_is_taken_itself():
    model, inputs = tiny_models.llava(), tiny_models.llava_inputs((3, "I", 5))
    assert kept(model, inputs, method="visionzip", variant="auto")[0] == "visionzip"
    assert kept(model, inputs, method="divprune", variant="auto")[0] == "divprune"
    assert kept(model, inputs, scorer="zoo", selector="diverse", variant="auto")[0] == "zoo+diverse"


def test_no_variant_is_named_where_none_runs():
    for name, call in (
        ("internvl", {"method": "visionzip"}),  # no attention is observed there
        ("qwen3_vl", {"method": "visionzip"}),  # its variant makes new rows, which DeepStack forbids
        ("qwen2_vl", {"method": tokenprune.method("visionzip", dominant=4)}),  # has an option of its own
    ):
        for variant in ("named", "auto"):
            with pytest.raises(tokenprune.IncompatibleError, match="cls_attention") as error:
                tokenprune.apply(families.model(name), keep=6, variant=variant, **call)
            assert "variant" not in str(error.value)


def test_each_method_of_a_list_may_be_a_variant():
    model = families.model("qwen2_vl")
    with tokenprune.apply(model, method=["vispruner", "fastv"], keep=[12, 6], variant="auto") as handle:
        assert [cut.method.name for cut in handle.cuts] == ["vispruner-received", "fastv"]


def test_names_that_two_plugins_deliver_are_no_variants(monkeypatch):
    registry = tokenprune.default_registry()
    find = type(registry).find

    def conflicting(self, kind, name):
        if kind == "method" and name == "vispruner-received":
            raise PluginConflictError("two plugins deliver it")
        return find(self, kind, name)

    monkeypatch.setattr(type(registry), "find", conflicting)
    with pytest.raises(tokenprune.IncompatibleError) as error:
        tokenprune.apply(families.model("qwen2_vl"), method="vispruner", keep=6, variant="auto")
    assert "variant" not in str(error.value)


@pytest.mark.parametrize("variant", ["automatic", None, True])
def test_other_values_are_refused(variant):
    with pytest.raises(tokenprune.IncompatibleError, match="variant must be one of 'named', 'auto', got"):
        tokenprune.apply(tiny_models.llava(), method="divprune", keep=6, variant=variant)
