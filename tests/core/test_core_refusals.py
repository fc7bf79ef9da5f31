# SPDX-License-Identifier: Apache-2.0
"""Calls of the core that are refused or left as they are: each with its sentence or its value."""

import importlib
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import tokenprune
from tokenprune import IncompatibleError, InputError, Layout, OptionError, Selection, VisualTokens
from tokenprune.batch import select_all
from tokenprune.plugins import discover
from tokenprune.selection import fill_new_rows
from tokenprune.weights import dequantised

LAYERED = """
from torch import nn

class Layered(nn.Linear):
    pass

class LayeredAdapter(tokenprune.ModelAdapter):
    name = "layered"
    provides = {"projector": frozenset(), "decoder": frozenset()}

    @classmethod
    def matches(cls, model):
        return isinstance(model, Layered)

    def install(self, cuts, record):
        return lambda: None

@tokenprune.hookimpl
def tokenprune_adapters():
    return [LayeredAdapter]
"""


@pytest.fixture
def model(install_plugin):
    module = install_plugin(LAYERED)
    tokenprune.list_adapters()
    return importlib.import_module(module).Layered(2, 2)


# -- arguments


@pytest.mark.parametrize(
    "where", [{"stage": "decoder"}, {"layer": 2}, {"schedule": tokenprune.GeometricSchedule((1, 2))}]
)
def test_several_methods_take_no_place_in_common(model, where):
    with pytest.raises(OptionError, match="stage, layer and schedule apply to a single method; give Method"):
        tokenprune.apply(model, method=["stride", "stride"], keep=[4, 2], **where)
    assert not tokenprune.is_pruned(model)


def test_a_layer_beside_a_schedule_is_refused(model):
    schedule = tokenprune.GeometricSchedule((1, 2))
    with pytest.raises(OptionError, match="give either layer or schedule, not both"):
        tokenprune.apply(model, method="stride", keep=4, layer=1, schedule=schedule)


@dataclass(frozen=True)
class Worded(tokenprune.Scorer):
    """A scorer whose seed is a word."""

    name: ClassVar[str] = "worded"
    seed: str = "word"

    def score(self, tokens):
        return torch.ones(len(tokens))


def test_a_seed_of_another_kind_is_the_scorers_own_business(model):
    with tokenprune.apply(model, scorer=Worded("mine"), keep=4, seed=7) as handle:
        assert handle.cuts[0].method.scorer.seed == "mine"


def test_names_that_the_package_does_not_have():
    with pytest.raises(AttributeError, match="module 'tokenprune' has no attribute 'prune_everything'"):
        _ = tokenprune.prune_everything


# -- what torch.compile made


@pytest.mark.parametrize("loaded", [True, False])
def test_compiled_code_is_dropped_where_there_can_be_any(model, monkeypatch, loaded):
    if loaded:
        monkeypatch.setitem(sys.modules, "torch._dynamo", object())
    else:
        monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    resets = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(tokenprune.is_pruned(model)))
    with tokenprune.apply(model, method="stride", keep=4):
        pass
    assert resets == ([False, False] if loaded else [])  # before the first call, and after the last


# -- choosing


def test_a_stack_of_tiled_images_is_refused():
    tiles = torch.tensor([0, 0, 0, 1, 1, 1])
    tokens = VisualTokens(torch.eye(6).expand(2, 6, 6), {}, Layout((1, 1, 6), tiles, full_tiles=2))
    method = tokenprune.Method("m", scope="tile")
    with pytest.raises(IncompatibleError, match=r"tiled images must be passed one at a time, \(N, D\), not"):
        method.select(tokens, 4)
    assert len(method.select(VisualTokens(torch.eye(6), {}, tokens.layout), 4)) == 4


@dataclass(frozen=True)
class Picky(tokenprune.Scorer):
    """A scorer that finds its input wrong."""

    name: ClassVar[str] = "picky"
    batched: ClassVar[bool] = True

    def score(self, tokens):
        raise InputError("these tokens are too few")


@pytest.mark.parametrize("n", [1, 3])
def test_an_input_that_a_scorer_refuses_has_the_scorers_words_however_many_images_there_are(n):
    method = tokenprune.Method("m", scorer=Picky())
    with pytest.raises(InputError, match="^these tokens are too few$"):
        select_all(method, [VisualTokens(torch.eye(6))] * n, [3] * n)


class FirstOnes:
    """A `select` that is an object of its own, and knows no selector."""

    def __call__(self, tokens, scores, keep):
        return Selection(torch.arange(int(keep)))


class Delegating(tokenprune.Selector):
    name: ClassVar[str] = "delegating"
    select = FirstOnes()


def test_a_select_that_is_no_plain_function_is_called_as_it_is():
    tokens = VisualTokens(torch.eye(6))
    assert Delegating().select(tokens, None, 2.0).indices.tolist() == [0, 1]  # nobody looked at 2.0
    method = tokenprune.Method("m", selector=Delegating())
    assert method.select(tokens, 4).indices.tolist() == [0, 1, 2, 3]


def test_slots_without_a_new_row_stay_as_they_are():
    slots = torch.tensor([1, 4, 5])
    assert fill_new_rows(slots, 6) is slots
    assert fill_new_rows(torch.tensor([1, -1, 5, -1]), 6).tolist() == [1, 2, 5, 0]


# -- weights


class Packed(nn.Module):
    """A linear layer whose weights are whole numbers times a scale."""

    def __init__(self, bias):
        super().__init__()
        self.in_features, self.bias = 3, bias
        self.register_buffer("packed", torch.tensor([[1, -2, 3], [0, 4, -5]], dtype=torch.int8))

    def forward(self, rows):
        return nn.functional.linear(rows, self.packed.float() * 0.5, self.bias)


@pytest.mark.parametrize("bias", [None, torch.tensor([0.25, -1.5])])
def test_a_packed_layer_inside_a_projector_is_read_with_its_bias(bias):
    whole = nn.Sequential(Packed(bias), nn.GELU())
    read = dequantised(whole)
    assert isinstance(whole[0], Packed) and isinstance(read[0], nn.Linear) and read[1] is whole[1]
    assert read[0].weight.tolist() == [[0.5, -1.0, 1.5], [0.0, 2.0, -2.5]]
    assert (read[0].bias is None) if bias is None else torch.equal(read[0].bias, bias)
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(read(rows), whole(rows))


class Bent(Packed):
    def forward(self, rows):
        return super().forward(rows) ** 2


def test_a_packed_layer_that_is_not_linear_is_refused_by_name():
    with pytest.raises(IncompatibleError, match="the weights of the projector's Bent cannot be read in"):
        dequantised(nn.Sequential(Bent(torch.tensor([0.25, -1.5]))))


# -- plugins


def test_after_a_hook_that_failed_the_plugins_others_are_not_asked(install_plugin):
    module = install_plugin(
        """
        asked = []

        @tokenprune.hookimpl
        def tokenprune_scorers():
            asked.append("scorers")
            raise RuntimeError("no scorers today")

        @tokenprune.hookimpl
        def tokenprune_methods():
            asked.append("methods")
            return [tokenprune.Method("never-delivered")]
        """
    )
    (plugin,) = [plugin for plugin in discover() if plugin.name == "stranger"]
    assert "failed in tokenprune_scorers: RuntimeError: no scorers today" in plugin.problem
    assert plugin.delivers == {} and importlib.import_module(module).asked == ["scorers"]
    assert "never-delivered" not in tokenprune.list_methods()
