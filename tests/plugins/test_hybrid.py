# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenprune

AXES = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, -1.0]])


def order_of(features, scores, keep, **options):
    tokens = tokenprune.VisualTokens(features)
    return tokenprune.selector("hybrid", **options).select(tokens, scores, keep).order.tolist()


def test_by_hand():
    # half of 2 by score: token 1; then the farthest from it: token 3
    assert order_of(AXES, torch.tensor([1.0, 4.0, 3.0, 2.0]), keep=2) == [1, 3]


def test_half_of_an_odd_budget_is_rounded_up():
    # 2 of 3 by score: tokens 1 and 2; then 0 (nearest 1 away) and 3 (nearest 1 away) tie: 0
    assert order_of(AXES, torch.tensor([1.0, 4.0, 3.0, 2.0]), keep=3) == [1, 2, 0]


@pytest.mark.parametrize(("fraction", "like"), [(1.0, "topk"), (0.0, "diverse")])
def test_the_ends_are_score_alone_and_diversity_alone(fraction, like):
    generator = torch.Generator().manual_seed(0)
    features, scores = torch.randn(20, 6, generator=generator), torch.rand(20, generator=generator)
    given = scores if like == "topk" else None
    end = tokenprune.selector(like).select(tokenprune.VisualTokens(features), given, 8)
    assert order_of(features, scores, 8, fraction=fraction) == end.order.tolist()


def test_without_scores_it_is_diversity_alone():
    features = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    diverse = tokenprune.selector("diverse").select(tokenprune.VisualTokens(features), None, 8)
    assert order_of(features, None, 8) == diverse.order.tolist()


def test_a_fraction_outside_0_to_1_is_refused():
    with pytest.raises(tokenprune.OptionError, match=r"\[0, 1\], got 1.5"):
        tokenprune.selector("hybrid", fraction=1.5)


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 30), fraction=st.floats(0, 1), data=st.data())
def test_exact_count_and_the_best_are_among_them(seed, n, fraction, data):
    keep = data.draw(st.integers(1, n))
    generator = torch.Generator().manual_seed(seed)
    features, scores = torch.randn(n, 6, generator=generator), torch.rand(n, generator=generator)
    order = order_of(features, scores, keep, fraction=fraction)
    assert len(set(order)) == keep
    n_best = int(fraction * keep + 0.5)
    assert order[:n_best] == scores.argsort(descending=True)[:n_best].tolist()


def test_a_stack_is_chosen_like_its_images_one_by_one():
    generator = torch.Generator().manual_seed(0)
    features, scores = torch.randn(3, 20, 6, generator=generator), torch.rand(3, 20, generator=generator)
    apart = [order_of(f, s, 7) for f, s in zip(features, scores, strict=True)]
    assert order_of(features, scores, 7) == apart
