# SPDX-License-Identifier: Apache-2.0
"""Every installed adapter declares itself well; the check notices those that do not."""

import pytest
from torch import nn

import tokenprune
from tokenprune.testing import check_adapter


@pytest.mark.parametrize("name", tokenprune.list_adapters())
def test_adapter_keeps_the_contract(name):
    check_adapter(tokenprune.default_registry().find("adapter", name))


class Linear(tokenprune.ModelAdapter):
    name = "linear"
    provides = {"projector": frozenset({"pre_features"})}

    @classmethod
    def matches(cls, model):
        return isinstance(model, nn.Linear)

    def install(self, cuts, record):
        return lambda: None


def test_a_correct_adapter_passes_with_its_model():
    check_adapter(Linear, nn.Linear(2, 2))


def broken(**attributes):
    return type("Broken", (Linear,), {"name": "broken", **attributes})


class Unwritten(tokenprune.ModelAdapter):
    name = "broken"


@pytest.mark.parametrize(
    ("adapter", "sentence"),
    [
        (type("NoAdapter", (), {"name": "broken"}), r"not a subclass of tokenprune\.ModelAdapter"),
        (Unwritten, "does not implement all methods of ModelAdapter"),
        (broken(matches=classmethod(lambda cls, model: True)), r"claims a bare torch\.nn\.Identity"),
        (broken(matches=classmethod(lambda cls, model: False)), "does not claim Linear"),
        (broken(provides={"retina": frozenset()}), "stages other than vision, projector, decoder"),
        (broken(default_stage="decoder"), "cannot cut at its own default stage"),
        (broken(positions=("shuffled",)), "there are 'contiguous' and 'original'"),
    ],
)
def test_each_broken_promise_is_named(adapter, sentence):
    with pytest.raises(AssertionError, match=f"adapter 'broken'.*{sentence}"):
        check_adapter(adapter, nn.Linear(2, 2))
