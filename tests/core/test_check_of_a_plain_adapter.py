# SPDX-License-Identifier: Apache-2.0
"""`check_model` with an adapter that brings nothing but `install`: what is checked, and what it may leave."""

import importlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import tokenprune
from tokenprune.testing import check_model
from tokenprune.trial import FAILED, NOT_APPLICABLE, PASSED

PLAIN = """
from torch import nn
from tokenprune import ImageReport, Layout, PruningReport

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(nn.init.ones_(nn.Linear(2, 2).weight))
        self.part = nn.Identity()
        self.config = None
        self.answer = lambda rows: rows
        self.changes = lambda output: output
        self.leaves = lambda model: None
        self.sees = True

    def forward(self, rows, scale=1.0):
        return self.answer(self.part(rows @ self.weight * scale))

class PlainAdapter(tokenprune.ModelAdapter):
    name = "plain"
    provides = {"projector": frozenset()}

    @classmethod
    def matches(cls, model):
        return isinstance(model, Plain)

    def install(self, cuts, record):
        model, layout = self.model, Layout((1, 2, 3))

        def look(module, args, output):
            n = min(6, cuts[0].budget.rows(6))
            image = ImageReport(0, layout, 6, n, None, None)
            record(PruningReport((image,) if model.sees else ()))
            return model.changes(output)

        hook = model.register_forward_hook(look)

        def undo():
            hook.remove()
            model.leaves(model)

        return undo

@tokenprune.hookimpl
def tokenprune_adapters():
    return [PlainAdapter]
"""
ROWS = torch.tensor([[1.0, 2.0]])


@pytest.fixture
def model(install_plugin):
    module = install_plugin(PLAIN)
    tokenprune.list_adapters()
    return importlib.import_module(module).Plain()


def checked(model, inputs=ROWS):
    check = check_model(model, inputs, methods=["stride"], keep=3)
    return {record.promise: record for record in check.records}


@pytest.mark.parametrize("inputs", [ROWS, (ROWS, 2.0), {"rows": ROWS, "scale": 3.0}])
def test_identity_and_undoing_are_checked_and_the_rest_has_no_reference(model, inputs):
    records = checked(model, inputs)
    assert {promise: record.outcome for promise, record in records.items()} == {
        "exactness": NOT_APPLICABLE,
        "identity": PASSED,
        "undo": PASSED,
    }
    assert records["exactness"].note == "the model's adapter has no reference to compare with"
    assert (records["identity"].difference, records["undo"].difference) == (0.0, 0.0)
    assert not model._forward_hooks


def test_outputs_of_every_kind_are_compared(model):
    model.answer = lambda rows: {"rows": rows, "more": [rows, (rows + 1, None)]}
    assert checked(model)["identity"].outcome == PASSED
    model.changes = lambda output: {**output, "more": [output["rows"], (output["rows"] + 1.5, None)]}
    identity = checked(model)["identity"]
    assert (identity.outcome, identity.difference) == (FAILED, 0.5)


def test_an_output_of_another_shape_is_infinitely_far_away(model):
    model.changes = lambda output: output[:, :1]
    check = check_model(model, ROWS, methods=["stride"], keep=3)
    (record,) = check.failures
    assert (record.promise, record.difference) == ("identity", float("inf"))
    (plain,) = [record for record in check.to_dict()["records"] if record["promise"] == "identity"]
    assert (plain["difference"], plain["note"]) == (None, "the difference is inf")


def test_a_model_that_returns_no_tensor_cannot_be_checked(model):
    model.answer = lambda rows: {"rows": None}
    words = (
        r"the unpruned Plain cannot be run on these inputs \(UnsupportedCallError: the model returned dict, "
    )
    with pytest.raises(tokenprune.UnsupportedCallError, match=words + "which contains no tensor"):
        check_model(model, ROWS, methods=["stride"], keep=3)


def test_inputs_without_an_image_break_a_promise(model):
    model.sees = False
    check = check_model(model, ROWS, methods=["stride"], keep=3)
    (record,) = check.failures
    assert (record.promise, record.note) == ("exactness", "no visual token was seen, and none pruned")


class Other(nn.Identity):
    pass


@pytest.mark.parametrize(
    ("leaves", "said"),
    [
        (lambda m: setattr(m, "more", nn.Identity()), "module 'more' is new"),
        (lambda m: delattr(m, "part"), "module 'part' is gone"),
        (lambda m: setattr(m.part, "__class__", Other), "'part' has the class Other instead of Identity"),
        (
            lambda m: setattr(m.config, "depth", 3),
            "the Plain itself has another configuration than before",
        ),
    ],
)
def test_what_is_left_on_the_model_is_named(model, leaves, said):
    model.config = SimpleNamespace(depth=2)
    model.leaves = leaves
    model.answer = lambda rows: rows
    record = checked(model)["undo"]
    assert record.outcome == FAILED and record.note.endswith(said)


def test_what_such_an_adapter_says_by_default(model):
    with pytest.raises(tokenprune.UnsupportedModelError, match="'plain' cannot make inputs for Plain; pass"):
        check_model(model)
    with pytest.raises(
        tokenprune.IncompatibleError,
        match="the adapter 'plain' supports a single cut, but 2 methods were given",
    ):
        tokenprune.apply(model, method=["stride", "stride"], keep=[4, 2])
    adapter = tokenprune.default_registry().adapter_for(model)
    assert (adapter.why_not(model), list(adapter.specimens())) == ("", [])
    assert adapter(model).positions == ("contiguous", "original")
    with tokenprune.apply(model, keep=3, method="stride") as handle:
        assert handle.rehearsal == "not rehearsed: the adapter 'plain' has no rehearsal"
        assert torch.equal(model(ROWS), ROWS @ model.weight)
        assert handle.last.n_after == 3


def test_what_a_model_raises_unpruned_is_part_of_the_refusal(model):
    model.answer = lambda rows: {}["x"]
    with pytest.raises(tokenprune.UnsupportedCallError, match=r"on these inputs \(KeyError: 'x'\)"):
        check_model(model, ROWS, methods=["stride"], keep=3)
