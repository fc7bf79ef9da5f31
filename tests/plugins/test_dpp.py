# SPDX-License-Identifier: Apache-2.0
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


def test_a_stack_is_chosen_like_its_images_one_by_one():
    generator = torch.Generator().manual_seed(0)
    features, r = torch.randn(3, 30, 12, generator=generator), torch.rand(3, 30, generator=generator)
    apart = torch.cat([largest_volume(f[None], s[None], 9) for f, s in zip(features, r, strict=True)])
    assert torch.equal(largest_volume(features, r, 9), apart)
