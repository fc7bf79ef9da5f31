# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import diversity, golden
from tokenprune_plugins.diverse import DiverseSelector

import tokenprune

# four tokens on the axes of a plane: opposite ones are 2 apart, the others 1
AXES = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, -1.0]])


def order_of(features, scores, keep, **options):
    tokens = tokenprune.VisualTokens(features)
    chosen = tokenprune.selector("diverse", **options).select(tokens, scores, keep)
    assert torch.equal(chosen.indices, chosen.order.sort(-1).values)
    return chosen.order.tolist()


def test_by_hand():
    # weights 0, 1/3, 2/3, 1: token 3 first; gains 0, 1/3 * 2, 2/3 * 1 -> a tie, the lower slot: 1; then 2
    assert order_of(AXES, torch.tensor([1.0, 2.0, 3.0, 4.0]), keep=4) == [3, 1, 2, 0]


def test_normalising_by_the_maximum_keeps_proportions():
    # weights 1/4, 1/2, 3/4, 1: gains 1/4, 1/2 * 2, 3/4 -> 1; then 0 (1/4) against 2 (3/4) -> 2
    selector = DiverseSelector(normalise="max")
    assert selector.weights(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist() == [0.25, 0.5, 0.75, 1.0]
    assert order_of(AXES, torch.tensor([1.0, 2.0, 3.0, 4.0]), keep=4, normalise="max") == [3, 1, 2, 0]


@pytest.mark.parametrize("normalise", ["minmax", "max"])
@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_equal_scores_weigh_one_and_slot_0_comes_first(normalise, value):
    scores = torch.full((4,), value)
    assert DiverseSelector(normalise=normalise).weights(scores).tolist() == [1.0] * 4
    assert order_of(AXES, scores, keep=2, normalise=normalise) == [0, 2]


def test_another_normalisation_is_refused():
    with pytest.raises(tokenprune.OptionError, match="'minmax' or 'max', got 'softmax'"):
        tokenprune.selector("diverse", normalise="softmax")


@pytest.mark.parametrize("name", ["zoo_select_n64_k64", "zoo_select_constant_sensitivity"])
def test_golden_picks(name):
    vectors = golden.load(name)
    order = order_of(vectors["features"], vectors["sensitivity"], int(vectors["K"]))
    assert order == vectors["order"].tolist()


def test_golden_picks_of_each_view_of_a_stack():
    vectors = golden.load("zoo_select_per_view")
    order = order_of(vectors["features"], vectors["sensitivity"], int(vectors["K_per_view"]))
    assert order == vectors["order"].tolist()


def test_golden_picks_without_scores():
    vectors = golden.load("zoo_score_n64")
    hidden = torch.nn.functional.gelu(vectors["X"] @ vectors["W1"].T + vectors["b1"])
    features = hidden @ vectors["W2"].T + vectors["b2"]
    assert order_of(features, None, int(vectors["K"])) == vectors["order_divprune"].tolist()


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 30), has_scores=st.booleans(), data=st.data())
def test_equals_the_slow_reference(seed, n, has_scores, data):
    keep = data.draw(st.integers(1, n))
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 9, generator=generator)
    scores = torch.rand(n, generator=generator) if has_scores else None
    order = order_of(features, scores, keep)
    if has_scores:
        assert order == diversity.zoo_prune(features, scores, keep)
    else:
        isolation = diversity.isolation(features)
        assert isolation[order[0]] == pytest.approx(max(isolation), abs=1e-6)
        assert order == diversity.divprune(features, keep, first=order[0])


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 30), data=st.data())
def test_shifting_and_scaling_scores_or_scaling_features_changes_nothing(seed, n, data):
    keep = data.draw(st.integers(1, n))
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 9, generator=generator)
    scores = torch.randint(0, 64, (n,), generator=generator).float()  # small integers: exact arithmetic
    order = order_of(features, scores, keep)
    assert len(set(order)) == keep
    assert order_of(4 * features, 2 * scores + 8, keep) == order


def test_keeping_all_keeps_all_and_keeping_one_keeps_the_best():
    features = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    scores = torch.arange(12.0).roll(3)
    assert sorted(order_of(features, scores, keep=12)) == list(range(12))
    assert order_of(features, scores, keep=1) == [2]
