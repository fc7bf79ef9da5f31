# SPDX-License-Identifier: Apache-2.0
"""Every installed scorer keeps the contract, and the contract check notices each way to break it."""

import random
from dataclasses import dataclass

import pytest
import torch

import tokenprune
from tokenprune.testing import check_scorer, example_tokens


@pytest.mark.parametrize("name", tokenprune.list_scorers())
def test_scorer_keeps_the_contract(name):
    check_scorer(tokenprune.scorer(name))


@pytest.mark.parametrize("name", tokenprune.list_scorers())
@pytest.mark.parametrize("n", [1, 2, 7])
def test_scorer_takes_images_of_any_size(name, n):
    check_scorer(tokenprune.scorer(name), example_tokens(n))


@pytest.mark.parametrize("name", tokenprune.list_scorers())
def test_scores_stay_float32_and_finite_for_bfloat16_tokens(name):
    scorer, tokens = tokenprune.scorer(name), example_tokens()
    signals = {need: tokens.signal(need) for need in scorer.needs}
    signals = {k: v.bfloat16() if isinstance(v, torch.Tensor) else v for k, v in signals.items()}
    scores = scorer.score(
        tokenprune.VisualTokens(tokens.features.bfloat16(), signals, tokens.layout, tokens.layer)
    )
    assert scores is None or (scores.dtype == torch.float32 and scores.isfinite().all())


@dataclass(frozen=True)
class Norm(tokenprune.Scorer):
    name = "norm"

    def score(self, tokens):
        return tokens.features.norm(dim=-1)


def test_a_correct_scorer_passes():
    check_scorer(Norm())


def broken(score, **attributes):
    return type("Broken", (Norm,), {"name": "broken", "score": score, **attributes})()


def in_place(self, tokens):
    tokens.features.mul_(2)
    return tokens.features.norm(dim=-1)


def moody(self, tokens, moods=iter([None, torch.zeros(24)] * 9)):  # noqa: B008 (state is the point)
    return next(moods)


def counting(self, tokens, calls=[]):  # noqa: B006 (state is the point)
    calls.append(0)
    return torch.full((len(tokens),), float(len(calls)))


@pytest.mark.parametrize(
    ("scorer", "sentence"),
    [
        (broken(lambda self, t: t.features), r"returned \(24, 16\) instead of \(24,\)"),
        (broken(lambda self, t: [1.0] * len(t)), "returned list, not a tensor"),
        (broken(lambda self, t: torch.zeros(len(t)).double()), "float64 instead of torch.float32"),
        (broken(lambda self, t: torch.full((len(t),), torch.nan)), "not finite"),
        (broken(lambda self, t: torch.rand(len(t))), "global random state"),
        (broken(lambda self, t: torch.full((len(t),), random.random())), "global random state"),
        (broken(in_place), "changed the input 'features' in place"),
        (broken(moody), "returns None only sometimes"),
        (broken(counting), "different scores for the same tokens"),
        (broken(lambda self, t: t.signal("cls_attention").mean(0)), "does not declare in `needs`"),
        (broken(Norm.score, needs=frozenset({"moon_phase"})), "needs moon_phase: pass tokens"),
        (
            broken(lambda self, t: t.features.norm(dim=-1) / t.features.norm(), batched=True),
            "says `batched` but scores a stack differently",
        ),
        (
            broken(lambda self, t: None if t.is_batch else t.features.norm(dim=-1), batched=True),
            "returns None for only one of images and stacks",
        ),
    ],
)
def test_each_broken_promise_is_named(scorer, sentence):
    with pytest.raises(AssertionError, match=f"scorer 'broken'.*{sentence}"):
        check_scorer(scorer)


def test_something_that_is_no_scorer_is_refused():
    with pytest.raises(AssertionError, match=r"is not an instance of tokenprune\.Scorer"):
        check_scorer(object())
