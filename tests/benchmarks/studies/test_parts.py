# SPDX-License-Identifier: Apache-2.0
"""Strategies of the studies on tokens made by hand."""

import dataclasses

import pytest
import torch

import tokenprune
from benchmarks.studies.parts import HalfDifferences, Remembered, SumSelector
from tokenprune import testing

T = torch.tensor


def test_the_sum_by_hand():
    """Four unit vectors in the plane at 0, 60, 90 and 180 degrees: cosines 1/2, 0, -1 with the first."""
    angles = T([0.0, 60.0, 90.0, 180.0]).deg2rad()
    tokens = tokenprune.VisualTokens(torch.stack([angles.cos(), angles.sin()], -1))
    scores = T([10.0, 8.0, 7.0, 0.0])  # weights 1, 0.8, 0.7, 0
    # distances to the first: 0.5, 1, 2: sums 1.3, 1.7, 2.0 -> the last; then min(0.5, 1.5) + 0.8 = 1.3
    # against min(1, 1) + 0.7 = 1.7 -> the third
    assert SumSelector().select(tokens, scores, 3).order.tolist() == [0, 3, 2]
    # the product takes the third at once: 0.8 * 0.5, 0.7 * 1, 0 * 2
    assert tokenprune.selector("diverse").select(tokens, scores, 2).order.tolist() == [0, 2]


def test_the_sum_needs_an_opinion():
    with pytest.raises(tokenprune.IncompatibleError, match="needs scores, and the scorer returns None"):
        SumSelector().select(testing.example_tokens(6), None, 2)


def test_a_remembered_scorer_is_asked_once_a_picture():
    asked = []

    class Counted(tokenprune.Scorer):
        name = "counted"
        needs = frozenset({"keys"})

        def score(self, tokens):
            asked.append(tokens)
            return torch.arange(float(len(tokens)))

    remembered = Remembered(Counted())
    assert remembered.needs == {"keys"}
    one, other = testing.example_tokens(6), testing.example_tokens(6, seed=1)
    results = [remembered.score(tokens) for tokens in (one, other, one, testing.example_tokens(6))]
    assert asked == [one, other]
    assert all(torch.equal(result, torch.arange(6.0)) for result in results)


def test_differences_without_rounding_are_the_estimator():
    tokens = testing.example_tokens(24)
    exact = tokenprune.scorer("zoo").score(tokens)
    torch.testing.assert_close(HalfDifferences(torch.float32).score(tokens), exact, rtol=2e-3, atol=1e-5)


def test_half_precision_swallows_steps_where_rows_are_large():
    """At 1024 a float16 row moves in steps of 1, so that no direction of length 0.01 moves it at all."""
    tokens = testing.example_tokens(24)
    large = tokens.signal("pre_features") * 0 + 1024
    rounded = tokenprune.VisualTokens(tokens.features, {"pre_features": large, "projector": tokens.projector})
    assert HalfDifferences(torch.float16).score(rounded).tolist() == [0.0] * 24
    assert (HalfDifferences(torch.float32, step_size=1.0).score(rounded) > 0).all()


def test_half_differences_need_two_linear_layers():
    tokens = tokenprune.VisualTokens(
        torch.zeros(3, 2), {"pre_features": torch.zeros(3, 2), "projector": torch.nn.Identity()}
    )
    with pytest.raises(tokenprune.IncompatibleError, match="linear -> activation -> linear"):
        HalfDifferences().score(tokens)


def test_the_options_are_those_of_frozen_dataclasses():
    for part in (SumSelector(), HalfDifferences(), Remembered(tokenprune.scorer("zoo"))):
        assert dataclasses.is_dataclass(part) and part.with_options() == part
