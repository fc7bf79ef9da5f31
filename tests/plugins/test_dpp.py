# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import cdpruner as slow
from tokenprune_plugins.dpp import largest_volume

import tokenprune

AXES = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [1.0, 1.0]])


def order_of(features, scores, keep):
    return tokenprune.selector("dpp").select(tokenprune.VisualTokens(features), scores, keep).order.tolist()


def test_by_hand():
    # the most relevant is 3; volumes r^2 sin^2: 0: 0.36 * 0.5, 1: 0.64 * 0.5, 2: 0.25 * 0.5 -> 1
    assert order_of(AXES, torch.tensor([0.6, 0.8, 0.5, 1.0]), keep=2) == [3, 1]


def test_without_scores_all_count_the_same():
    assert order_of(AXES, None, keep=2) == [0, 1]


def test_beyond_the_rank_the_most_relevant_follow():
    assert order_of(AXES, torch.tensor([0.6, 0.8, 0.5, 1.0]), keep=4) == [3, 1, 0, 2]


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 16), data=st.data())
def test_equals_largest_determinants(seed, n, data):
    keep = data.draw(st.integers(1, n))
    generator = torch.Generator().manual_seed(seed)
    features, r = torch.randn(n, 20, generator=generator), torch.rand(n, generator=generator) + 0.1
    assert order_of(features, r, keep) == slow.dpp(features, r, keep)


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 40), data=st.data())
def test_picks_are_unique_beyond_the_rank_and_scaling_changes_nothing(seed, n, data):
    keep = data.draw(st.integers(1, n))
    generator = torch.Generator().manual_seed(seed)
    features, r = torch.randn(n, 5, generator=generator), torch.rand(n, generator=generator)
    order = order_of(features, r, keep)
    assert len(set(order)) == keep
    assert order_of(4 * features, 2 * r, min(keep, 5)) == order[:5]


@pytest.mark.parametrize("scale", [1e-2, 1e-4, 1e-6, 1e-9, 1e-15])
def test_relevances_count_in_proportion_however_small(scale):
    """What adds no volume is told by the angle alone, and the rest follow by their relevance."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(4, 6, generator=generator)
    features = torch.cat([features, 3 * features, 0.5 * features[:2]])  # rank 4 of 10 rows
    r = torch.tensor([0.5, 0.9, 0.95, 0.8, 0.7, 0.3, 1.0, 0.2, 0.6, 0.1])
    want = order_of(features, r, 10)
    assert {slot % 4 for slot in want[:4]} == {0, 1, 2, 3}  # one of each direction first
    assert want[4:] == sorted(want[4:], key=lambda slot: -r[slot])
    assert order_of(features, scale * r, 10) == want
    assert slow.dpp(features, r, 4) == want[:4]


def test_tokens_without_any_relevance_come_last_and_once():
    r = torch.tensor([0.0, 1e-7, 0.0, 2e-7])
    assert order_of(torch.eye(4), r, 4) == [3, 1, 0, 2]


def test_a_stack_is_chosen_like_its_images_one_by_one():
    generator = torch.Generator().manual_seed(0)
    features, r = torch.randn(3, 30, 12, generator=generator), torch.rand(3, 30, generator=generator)
    apart = torch.cat([largest_volume(f[None], s[None], 9) for f, s in zip(features, r, strict=True)])
    assert torch.equal(largest_volume(features, r, 9), apart)
