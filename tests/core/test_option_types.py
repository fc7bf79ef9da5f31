# SPDX-License-Identifier: Apache-2.0
"""Options of another type than they are declared to have are refused where they are given."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pytest
import tiny_models
import torch

import tokenprune


@pytest.mark.parametrize(
    ("kind", "name", "options", "said"),
    [
        ("scorer", "zoo", {"n_directions": 64.0}, "n_directions must be an integer, got 64.0"),
        ("scorer", "zoo", {"n_directions": True}, "n_directions must be an integer, got True"),
        ("scorer", "zoo", {"step_size": "x"}, "step_size must be a number, got 'x'"),
        ("scorer", "zoo", {"rank": 2.5}, "rank must be an integer or None, got 2.5"),
        ("scorer", "zoo", {"directions": "x"}, "directions must be a tensor (m, D_v), got 'x'"),
        ("scorer", "zoo-exact", {"low_memory": "x"}, "low_memory must be True or False, got 'x'"),
        ("selector", "vispruner", {"important_ratio": None}, "important_ratio must be a number, got None"),
        ("reducer", "visionzip", {"dominant": 8.5}, "dominant must be an integer or None, got 8.5"),
        ("method", "visionzip", {"dominant": "x"}, "dominant must be an integer or None, got 'x'"),
        ("method", "fastv", {"budget": 3}, "budget must be a string, got 3"),
        ("method", "random", {"seed": 1.5}, "seed must be an integer, got 1.5"),
    ],
)
def test_wrong_types_are_refused_by_name(kind, name, options, said):
    with pytest.raises(tokenprune.OptionError) as caught:
        getattr(tokenprune, kind)(name, **options)
    assert str(caught.value).endswith(said)


def test_numbers_of_other_libraries_and_whole_numbers_for_numbers_are_taken():
    scorer = tokenprune.scorer(
        "zoo", n_directions=np.int64(4), step_size=1, rank=None, directions=torch.eye(2)
    )
    assert scorer.n_directions == 4 and scorer.step_size == 1
    assert tokenprune.scorer("zoo", step_size=torch.tensor(0.5), unit=np.bool_(True)).step_size == 0.5
    method = tokenprune.method("random", seed=np.int64(3))
    with tokenprune.apply(tiny_models.llava(), method=method, keep=np.int64(4), seed=np.int64(1)) as handle:
        assert handle.cuts[0].budget.keep == 4


@pytest.mark.parametrize(
    ("arguments", "plain"),
    [
        ({"method": "random", "seed": np.int64(3)}, {"method": "random", "seed": 3}),
        ({"method": tokenprune.method("random", seed=np.int64(3))}, {"method": "random", "seed": 3}),
        ({"method": "zoo-prune", "seed": np.uint8(3)}, {"method": "zoo-prune", "seed": 3}),
        ({"method": "fastv", "layer": np.int64(1)}, {"method": "fastv", "layer": 1}),
        ({"method": "fastv", "layer": [np.int64(1)]}, {"method": "fastv", "layer": [1]}),
        ({"min_tokens": np.int32(17)}, {"min_tokens": 17}),
    ],
)
def test_integers_of_numpy_prune_as_pythons_do(arguments, plain):
    model, inputs, logits = tiny_models.llava(), tiny_models.llava_inputs((3, "I", 5)), []
    for given in (arguments, plain):
        with torch.no_grad(), tokenprune.apply(model, keep=np.int64(4), **given):
            logits.append(model(**inputs).logits)
    assert torch.equal(*logits)


def test_a_schedule_of_numpy_integers_is_one_of_integers():
    schedule = tokenprune.ExplicitSchedule.from_mapping({np.int64(2): np.int64(4), 1: 8})
    assert schedule == tokenprune.ExplicitSchedule((1, 2), (8, 4))
    assert {type(number) for number in (*schedule.layers, *schedule.rows)} == {int}
    with pytest.raises(tokenprune.BudgetError, match="all integers"):
        tokenprune.ExplicitSchedule.from_mapping({1: True})


@dataclass(frozen=True)
class Loud(tokenprune.Scorer):
    name = "loud"
    power: float = 1.0
    like: "Unknown | None" = None  # noqa: F821 (as of a type imported for type checkers only)

    def score(self, tokens):
        return tokens.features.norm(dim=-1) ** self.power


class Way(Protocol):
    def go(self):
        """Go."""


@dataclass(frozen=True)
class Quiet(tokenprune.Scorer):
    name = "quiet"
    times: int = 1
    notes: Any = None
    weights: Mapping[str, int] | None = None
    mode: Literal["a", "b"] = "a"
    way: Way | None = None

    def score(self, tokens):
        return -tokens.features.norm(dim=-1) * self.times


def test_types_that_cannot_be_told_are_left_to_the_strategy():
    assert Loud().with_options(like="anything").like == "anything"


def test_what_may_be_anything_may_be_anything():
    assert Quiet().with_options(notes=object(), weights={"a": 1}, mode="c", way=3).times == 1


@dataclass(frozen=True)
class Converting(tokenprune.Scorer):
    name = "converting"
    words: str = "a b"
    most: int = None

    def __post_init__(self):
        if isinstance(self.words, str):
            object.__setattr__(self, "words", tuple(self.words.split()))

    def score(self, tokens):
        return tokens.features.norm(dim=-1)


def test_defaults_and_what_a_strategy_makes_of_its_options_are_its_own():
    with tokenprune.apply(tiny_models.llava(), scorer=Converting("c d"), keep=4):
        pass
    assert Converting().with_options(most=None).words == ("a", "b")
    with pytest.raises(tokenprune.OptionError, match="most must be an integer, got 'x'"):
        Converting().with_options(most="x")


def test_strategies_made_directly_are_looked_at_by_apply():
    with pytest.raises(tokenprune.OptionError, match="scorer 'quiet': times must be an integer, got 'x'"):
        tokenprune.apply(tiny_models.llava(), scorer=Quiet("x"), keep=4)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_of_parts_are_held_to_what_generators_take(seed):
    method = tokenprune.method("random", seed=seed)
    with pytest.raises(tokenprune.OptionError, match=f"seed must lie between 0 and .*, got {seed}"):
        tokenprune.apply(tiny_models.llava(), method=method, keep=4)
