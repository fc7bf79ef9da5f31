# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.picks import assert_same_picks
from reference.scope import scope as slow
from tokenprune_plugins import coverage as plugin
from tokenprune_plugins.coverage import Cosines, best_coverage
from tokenprune_plugins.coverage_lazy import pick_lazily

import tokenprune

ROWS = torch.tensor([[1.0, 0.0], [1.6, 1.2], [0.6, 0.8], [-1.0, 0.0]])
# cosines: 1 0.8 0.6 -1; 0.8 1 0.96 -0.8; 0.6 0.96 1 -0.6; -1 -0.8 -0.6 1


def order_of(features, scores, keep, **options):
    tokens = tokenprune.VisualTokens(features)
    return tokenprune.selector("coverage", **options).select(tokens, scores, keep).order.tolist()


def test_by_hand():
    # gains 2.4, 2.76, 2.56, 1 -> 1; then 0.2, 0.04 and 1 -> 3; then 0.2 and 0.04
    assert order_of(ROWS, None, keep=4) == [1, 3, 0, 2]


def test_gains_are_multiplied_with_scores():
    # 2.4, 0.276, 2.56, 0.1 -> 2; then 0.4, 0.024, 0.1 -> 0; then 0.004, 0.1 -> 3
    assert order_of(ROWS, torch.tensor([1.0, 0.1, 1.0, 0.1]), keep=4) == [2, 0, 3, 1]


def test_scores_are_added_if_asked():
    # 2.4, 2.76, 3.56, 1 -> 2; then 0.4, 0.24, 1 -> 3. Multiplied, all but token 2 are worth 0
    scores = torch.tensor([0.0, 0.0, 1.0, 0.0])
    assert order_of(ROWS, scores, keep=4, combine="add") == [2, 3, 0, 1]
    assert order_of(ROWS, scores, keep=4) == [2, 0, 1, 3]


def test_the_exponent_of_scores():
    scores = torch.tensor([0.9, 0.8, 0.9, 1.0])
    assert order_of(ROWS, scores, keep=1) == [2]  # 2.16, 2.208, 2.304, 1
    assert order_of(ROWS, scores, keep=1, alpha=0.0) == [1]
    assert order_of(ROWS, scores, keep=1, alpha=20.0) == [3]
    assert order_of(ROWS, scores, keep=1, alpha=20.0, combine="add") == [1]  # 2.52, 2.77, 2.68, 2


def test_negative_scores_count_as_0():
    below = torch.tensor([1.0, -0.1, 1.0, -5.0])
    assert order_of(ROWS, below, 4) == order_of(ROWS, below.clamp(min=0), 4) == [2, 0, 1, 3]
    assert order_of(ROWS, below, 4, alpha=0.5) == [2, 0, 1, 3]


def test_scores_without_any_weight_leave_the_lowest_slots():
    assert order_of(ROWS, torch.zeros(4), 3) == [0, 1, 2]


def test_rows_of_zeros_cover_nothing():
    rows = torch.cat([torch.zeros(1, 2), ROWS])
    assert order_of(rows, None, 5) == [2, 4, 1, 3, 0]
    assert order_of(torch.zeros(5, 3), None, 3) == [0, 1, 2]


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 16),
    scored=st.booleans(),
    alpha=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    combine=st.sampled_from(["multiply", "add"]),
    data=st.data(),
)
def test_equals_the_slow_reference(seed, n, scored, alpha, combine, data):
    keep = data.draw(st.integers(1, n))
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 6, generator=generator) + torch.randn(6, generator=generator)
    scores = torch.rand(n, generator=generator) if scored else None
    want, margins = slow(features, keep, scores, alpha, combine)
    order = order_of(features, scores, keep, alpha=alpha, combine=combine)
    assert_same_picks(order, want, margins, 1e-5)
    assert len(set(order)) == keep


@pytest.mark.parametrize("width", [3, 16])
@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("limit", [2**26, 1000])
def test_the_loop_of_accelerators_and_similarities_on_demand_pick_the_same(
    monkeypatch, width, adds, whole, limit
):
    """With scores: without them two tokens that cover only each other gain the same, up to rounding."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 90, width, generator=generator)
    weights = torch.rand(2, 90, dtype=torch.float64, generator=generator)
    want = pick_lazily(Cosines(rows), weights, adds, 40)
    monkeypatch.setattr(plugin, "LIMIT", limit)
    similarity = Cosines(rows, whole)
    assert (similarity.matrix is not None) == (whole and limit > 90**2)
    assert torch.equal(plugin._pick_by_all_gains(similarity, weights, adds, 40), want)
    assert torch.equal(pick_lazily(similarity, weights, adds, 40), want)
    assert torch.equal(best_coverage(rows, weights, adds, 40), want)


def test_rows_are_so_precise_that_sums_of_many_similarities_are():
    """In float32 lengths are off by 1e-7, and a gain of 150 by 2e-5."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1, 576, 1024, generator=generator) + 0.6 * torch.randn(1024, generator=generator)
    unit = rows[0].double() / rows[0].double().norm(dim=-1, keepdim=True)
    want = (unit @ unit.mT).clamp(min=0).sum(-1)
    gain = Cosines(rows).matrix[0].clamp(min=0).double().sum(-1)
    assert want.min() > 100
    torch.testing.assert_close(gain, want, rtol=0, atol=8e-6)


def test_the_towers_rows_are_compared_if_asked():
    rows = torch.randn(20, 4, 3, generator=torch.Generator().manual_seed(0))  # four patches a token
    tokens = tokenprune.VisualTokens(torch.zeros(20, 2), {"pre_features": rows})
    selector = tokenprune.selector("coverage", space="pre_features")
    assert selector.needs == {"pre_features"} and not tokenprune.selector("coverage").needs
    assert selector.select(tokens, None, 8).order.tolist() == order_of(rows.flatten(1), None, 8)


@pytest.mark.parametrize("space", ["features", "pre_features"])
def test_a_stack_is_chosen_like_its_images_one_by_one(space):
    generator = torch.Generator().manual_seed(0)
    rows, scores = torch.randn(3, 30, 12, generator=generator), torch.rand(3, 30, generator=generator)
    patches = rows.view(3, 30, 3, 4)
    selector = tokenprune.selector("coverage", space=space)
    together = selector.select(tokenprune.VisualTokens(rows, {"pre_features": patches}), scores, 9)
    for number in range(3):
        image = tokenprune.VisualTokens(rows[number], {"pre_features": patches[number]})
        assert torch.equal(selector.select(image, scores[number], 9).order, together.order[number])


@pytest.mark.parametrize("alpha", [-0.5, float("nan"), float("inf")])
def test_an_exponent_below_0_is_refused(alpha):
    with pytest.raises(tokenprune.OptionError, match=f"alpha must be a number of at least 0, got {alpha}"):
        tokenprune.selector("coverage", alpha=alpha)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("combine", "coverage's combine must be 'multiply' or 'add', got 'other'"),
        ("space", "coverage's space must be 'features' or 'pre_features', got 'other'"),
    ],
)
def test_other_words_are_refused(option, message):
    with pytest.raises(tokenprune.OptionError, match=message):
        tokenprune.selector("coverage", **{option: "other"})
