# SPDX-License-Identifier: Apache-2.0
"""An adapter of another package, made with the authoring module alone."""

import pytest
import torch
from tokenprune_adapters.authoring import FAMILIES, Family, FamilyAdapter
from tokenprune_adapters.generic import GenericAdapter
from tokenprune_adapters.tiny import tiny_model

import tokenprune
from tokenprune.testing import check_adapter, check_model


class StrangeAdapter(FamilyAdapter):
    """Models of a family that no table of ours has."""

    name = "strange"
    families = {
        "StrangeForConditionalGeneration": Family(rows=FAMILIES["InternVLForConditionalGeneration"].rows)
    }


@pytest.fixture(scope="module")
def model():
    built = tiny_model("internvl")
    built.__class__ = type("StrangeForConditionalGeneration", (type(built),), {})
    return built


def pruned(adapter, method, **cut):
    """Logits and the report of a pruned call on the adapter's own example."""
    cut = tokenprune.Cut(tokenprune.method(method, **cut), tokenprune.Budget(keep=3))
    adapter.check_model()
    adapter.check(cut)
    assert adapter.rehearse([cut]).startswith("rehearsed")
    reports = []
    undo = adapter.install([cut], reports.append)
    with torch.no_grad():
        logits = adapter.model(**adapter.example_inputs()).logits
    undo()
    return logits, reports[-1]


@pytest.mark.parametrize("method", ["divprune", "zoo-exact", "fastv"])
def test_a_family_in_a_table_of_another_package_is_pruned_as_one_in_ours(model, method):
    assert StrangeAdapter.matches(model)
    check_adapter(StrangeAdapter, model)
    logits, report = pruned(StrangeAdapter(model), method)
    expected, other = pruned(GenericAdapter(model), method)
    assert torch.equal(logits, expected)
    assert report.n_after == other.n_after == 3 < report.n_before
    assert torch.equal(report.images[0].kept, other.images[0].kept)


def test_a_table_names_its_own_models_only():
    plain = tiny_model("internvl")
    assert not StrangeAdapter.matches(plain)
    assert GenericAdapter.matches(plain)
    assert "StrangeForConditionalGeneration" not in FAMILIES


def test_a_projector_that_is_not_known_refuses_what_needs_it():
    class Unknown(StrangeAdapter):
        name = "unknown"
        families = {"InternVLForConditionalGeneration": Family()}

    cut = tokenprune.Cut(tokenprune.method("zoo-exact"), tokenprune.Budget(keep=3))
    with pytest.raises(tokenprune.IncompatibleError, match="pre_features, projector"):
        Unknown(tiny_model("internvl")).check(cut)


def test_another_package_for_a_family_that_no_table_has_passes_check_model(install_plugin, monkeypatch):
    """ViP-LLaVA without its row in our table, by what docs/writing-an-adapter.md says."""
    monkeypatch.delitem(FAMILIES, "VipLlavaForConditionalGeneration")
    install_plugin(
        """
        from tokenprune_adapters.authoring import Family, FamilyAdapter, of_layers

        class VipLlavaAdapter(FamilyAdapter):
            name = "vip-llava"
            families = {
                "VipLlavaForConditionalGeneration": Family(
                    rows=lambda inner: of_layers(inner.multi_modal_projector)
                )
            }

        @tokenprune.hookimpl
        def tokenprune_adapters():
            return [VipLlavaAdapter]
        """
    )
    check = check_model(tiny_model("vip-llava"), keep=5)
    assert check.passed, str(check)
    assert check.adapter == "vip-llava"
    ran = {record.method for record in check.records if record.outcome == "passed"}
    assert {"zoo-exact", "zoo-prune", "divprune", "fastv", "sparsevlm"} <= ran
