# SPDX-License-Identifier: Apache-2.0
"""ToMe's parts: the golden matching, matchings by hand, weights, and the schedule."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import golden
from reference import tome as reference
from tokenprune_plugins.tome import EveryBlockSchedule, bipartite, matched

import tokenprune
from tokenprune import IncompatibleError, Selection, VisualTokens
from tokenprune.cut import check_schedule

MERGE = tokenprune.reducer("merge")


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_golden_matching():
    """The class token, row 0, is in A and stays; the official order is A's rows that stay, then B's."""
    vectors = golden.load("tome_bipartite_n64_r16")
    metric, x, r = vectors["metric"][0, 1:], vectors["x"][0], int(vectors["r"])
    tokens = VisualTokens(x[1:], {"key_metric": metric})
    chosen = tokenprune.method("tome").select(tokens, keep=64 - r)
    counts = chosen.merged_into.bincount(minlength=64)[chosen.indices]
    sums = chosen.features * counts.unsqueeze(-1)  # the file has sums of the rows merged
    is_a = chosen.indices % 2 == 1
    rows = torch.cat([x[:1], sums[is_a], sums[~is_a]])
    torch.testing.assert_close(rows, vectors["merged_sum"][0], rtol=0, atol=1e-6)
    alone = counts == 1
    assert torch.equal(chosen.features[alone], tokens.features[chosen.indices[alone]])
    assert (counts[is_a] == 1).all() and counts.sum() == 64


def test_one_matching_by_hand():
    # B: slots 0, 2, 4; A: slots 1, 3. 1 looks most like 4, 3 like 0, the latter more
    keys = torch.tensor([[1.0, 0.0], [1.0, 2.0], [-1.0, 0.0], [3.0, 0.3], [0.0, 1.0]])
    kept, into = bipartite(keys, 4)
    assert kept.tolist() == [0, 1, 2, 4] and into.tolist() == [0, 1, 2, 0, 4]
    kept, into = bipartite(keys, 3)
    assert kept.tolist() == [0, 2, 4] and into.tolist() == [0, 4, 2, 0, 4]


def test_more_than_half_takes_a_further_matching_of_weighted_means():
    # 1 -> 0, 3 -> 2 and 5 -> 4; then 2, the only one in A, goes where the mean of 2 and 3 looks
    keys = torch.tensor(
        [[1.0, 0, 0], [1.0, 0, 0], [0.6, 0.4, 1.0], [0.0, 0.9, 1.2], [0.0, 1.0, 0], [0.0, 1.0, 0]]
    )
    kept, into = bipartite(keys, 2)  # mean (0.3, 0.65, 1.1)
    assert kept.tolist() == [0, 4] and into.tolist() == [0, 0, 4, 4, 4, 4]
    kept, into = bipartite(keys, 2, torch.tensor([1.0, 1, 9, 1, 1, 1]))  # mean (0.54, 0.45, 1.02)
    assert kept.tolist() == [0, 4] and into.tolist() == [0, 0, 0, 0, 4, 4]
    assert bipartite(keys, 1)[1].tolist() == [0] * 6


def test_equal_tokens_merge_from_the_last():
    kept, into = matched(torch.ones(1, 6, 3), 4)
    assert kept.tolist() == [[0, 1, 2, 4]] and into.tolist() == [[0, 1, 2, 0, 4, 0]]


@given(n=st.integers(1, 24), seed=st.integers(0, 99), data=st.data())
def test_equals_the_slow_reference(n, seed, data):
    keep = data.draw(st.integers(1, n))
    keys, rows = drawn(n, 5, seed=seed), drawn(n, 3, seed=seed + 100)
    sizes = torch.tensor(data.draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))).float()
    tokens = VisualTokens(rows, {"key_metric": keys, "sizes": sizes})
    groups = reference.tome(keys, keep, sizes.tolist())
    chosen = tokenprune.selector("bipartite").select(tokens, None, keep)
    assert chosen.indices.tolist() == sorted(groups)
    if keep == n:
        assert chosen.merged_into is None
        return
    assert {slot: sorted(group) for slot, group in groups.items()} == {
        slot: (chosen.merged_into == slot).nonzero().flatten().tolist() for slot in chosen.indices.tolist()
    }
    means, _ = reference.merged(rows, groups, sizes.tolist())
    got = MERGE.reduce(tokens, chosen, keep)
    torch.testing.assert_close(got.features, torch.from_numpy(means).float(), rtol=1e-4, atol=1e-5)
    assert got.indices is chosen.indices and got.merged_into is chosen.merged_into


def test_rows_are_weighted_by_the_patches_they_stand_for():
    selection = Selection(torch.tensor([0, 2]), merged_into=torch.tensor([0, 0, 2]))
    features = torch.tensor([[1.0], [2.0], [10.0]])
    sizes = torch.tensor([3.0, 1.0, 5.0])
    assert MERGE.reduce(VisualTokens(features), selection, 2).features.tolist() == [[1.5], [10.0]]
    weighted = MERGE.reduce(VisualTokens(features, {"sizes": sizes}), selection, 2)
    assert weighted.features.tolist() == [[1.25], [10.0]]


def test_after_a_selector_that_only_drops_the_nearest_row_takes_them():
    features = torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 9.0], [0.0, 3.0]])
    sizes = torch.tensor([3.0, 1.0, 1.0, 1.0])
    chosen = MERGE.reduce(VisualTokens(features, {"sizes": sizes}), Selection(torch.tensor([1, 3])), 2)
    assert chosen.features.tolist() == [[2.5, 0.0], [0.0, 6.0]]
    assert chosen.merged_into.tolist() == [1, 1, 3, 3]


def test_a_stack_is_each_of_its_images():
    rows, keys, sizes = drawn(3, 12, 4), drawn(3, 12, 5, seed=1), 1 + drawn(3, 12, seed=2).abs()
    method = tokenprune.method("tome")
    stacked = method.select(VisualTokens(rows, {"key_metric": keys, "sizes": sizes}), 5)
    for number in range(3):
        signals = {"key_metric": keys[number], "sizes": sizes[number]}
        alone = method.select(VisualTokens(rows[number], signals), 5)
        assert torch.equal(stacked.indices[number], alone.indices)
        assert torch.equal(stacked.merged_into[number], alone.merged_into)
        torch.testing.assert_close(stacked.features[number], alone.features)


def test_half_precision_rows_are_merged_in_float32():
    rows, keys = drawn(16, 4).bfloat16(), drawn(16, 5, seed=1).bfloat16()
    method = tokenprune.method("tome")
    half = method.select(VisualTokens(rows, {"key_metric": keys}), 9)
    full = method.select(VisualTokens(rows.float(), {"key_metric": keys.float()}), 9)
    assert torch.equal(half.indices, full.indices) and torch.equal(half.features, full.features.bfloat16())


def test_every_block_but_the_first_drops_as_many():
    schedule = EveryBlockSchedule()
    check_schedule(schedule)
    assert schedule.boundaries(12) == tuple(range(1, 12)) and schedule.boundaries(24) == tuple(range(1, 24))
    # 196 to 98 in 11 steps of 8.9: 8 or 9 each
    rows = schedule.cuts(98, 196, 12)
    assert list(rows.values()) == [188, 179, 170, 161, 152, 143, 134, 125, 116, 107, 98]
    assert schedule.cuts(6, 9, 4) == {1: 8, 2: 7, 3: 6}
    assert schedule.cuts(8, 9, 4) == {3: 8} and schedule.cuts(9, 9, 4) == {}


def test_given_blocks_share_the_rows():
    schedule = EveryBlockSchedule().at(2, 3)
    assert schedule.boundaries(12) == (2, 3) and schedule.cuts(6, 10, 12) == {2: 8, 3: 6}


def test_a_tower_of_one_block_is_refused():
    with pytest.raises(IncompatibleError, match="before every block but the first, and the model has 1"):
        EveryBlockSchedule().cuts(4, 9, 1)


@given(n=st.integers(2, 300), n_layers=st.integers(2, 40), data=st.data())
def test_the_schedule_reaches_every_budget(n, n_layers, data):
    keep = data.draw(st.integers(1, n - 1))
    rows = [n, *EveryBlockSchedule().cuts(keep, n, n_layers).values()]
    steps = [a - b for a, b in zip(rows, rows[1:], strict=False)]
    assert rows[-1] == keep and min(steps) > 0 and max(steps) <= -(-(n - keep) // (n_layers - 1))
