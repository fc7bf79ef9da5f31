# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.mmr import mmr as slow
from reference.picks import assert_same_picks

import tokenprune

ROWS = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 3.0], [-1.0, 0.0]])
SCORES = torch.tensor([3.0, 2.9, 2.5, 2.0])  # normalised 1, 0.9, 0.5, 0


def order_of(features, scores, keep, **options):
    tokens = tokenprune.VisualTokens(features)
    return tokenprune.selector("mmr", **options).select(tokens, scores, keep).order.tolist()


def test_by_hand():
    # 0 first; then 1: 0.45 - 0.4, 2: 0.25 - 0, 3: 0 + 0.5 -> 3; then 1: 0.45 - 0.4, 2: 0.25 - 0 -> 2
    assert order_of(ROWS, SCORES, keep=4) == [0, 3, 2, 1]
    # 0 first; then 1: 0.72 - 0.16, 2: 0.4 - 0, 3: 0 + 0.2 -> 1; then 2: 0.4 - 0.12, 3: 0 + 0.16 -> 2
    assert order_of(ROWS, SCORES, keep=4, weight=0.8) == [0, 1, 2, 3]


def test_the_ends_are_score_alone_and_difference_alone():
    generator = torch.Generator().manual_seed(0)
    features, scores = torch.randn(20, 6, generator=generator), torch.rand(20, generator=generator)
    tokens = tokenprune.VisualTokens(features)
    best = tokenprune.selector("topk").select(tokens, scores, 20).order.tolist()
    assert order_of(features, scores, 20, weight=1.0) == best
    apart = tokenprune.functional.max_min_diversity(features, 19, chosen=torch.tensor(best[:1])).tolist()
    assert order_of(features, scores, 20, weight=0.0) == best[:1] + apart


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_without_scores_it_is_diversity_alone(weight):
    features = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    diverse = tokenprune.selector("diverse").select(tokenprune.VisualTokens(features), None, 8)
    assert order_of(features, None, 8, weight=weight) == diverse.order.tolist()


def test_equal_scores_start_with_the_lowest_slot():
    assert order_of(ROWS, torch.full((4,), 7.0), 3) == [0, 3, 2]


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 16), weight=st.floats(0, 1), data=st.data())
def test_equals_the_slow_reference(seed, n, weight, data):
    keep = data.draw(st.integers(1, n))
    generator = torch.Generator().manual_seed(seed)
    features, scores = torch.randn(n, 6, generator=generator), torch.rand(n, generator=generator)
    order = order_of(features, scores, keep, weight=weight)
    assert_same_picks(order, *slow(features, scores, keep, weight))
    assert len(set(order)) == keep


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_the_unit_of_the_scores_does_not_matter(seed, scale, shift):
    generator = torch.Generator().manual_seed(seed)
    features, scores = torch.randn(12, 6, generator=generator), torch.rand(12, generator=generator)
    _, margins = slow(features, scores, 12, 0.5)
    moved = order_of(features, scale * scores + shift, 12)
    assert_same_picks(moved, order_of(features, scores, 12), margins, 1e-6 + 1e-6 * (1 + abs(shift)) / scale)


def test_a_stack_is_chosen_like_its_images_one_by_one():
    generator = torch.Generator().manual_seed(0)
    features, scores = torch.randn(3, 20, 6, generator=generator), torch.rand(3, 20, generator=generator)
    apart = [order_of(f, s, 7) for f, s in zip(features, scores, strict=True)]
    assert order_of(features, scores, 7) == apart


@pytest.mark.parametrize("weight", [-0.1, 1.5, float("nan")])
def test_a_weight_outside_0_to_1_is_refused(weight):
    with pytest.raises(tokenprune.OptionError, match=rf"\[0, 1\], got {weight}"):
        tokenprune.selector("mmr", weight=weight)
