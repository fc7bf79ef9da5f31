# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import diversity

from tokenprune import functional, max_min, max_min_numpy, similarity
from tokenprune.functional import (
    Similarity,
    even_slots,
    flatten_equal,
    max_min_diversity,
    min_max,
    top_slots,
    unit_rows,
)

# four tokens in the plane at 0, 10, 90 and 200 degrees; cosine distances are 1 - cos of the angle between
ANGLES = [0.0, 10.0, 90.0, 200.0]
PLANE = torch.tensor([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in ANGLES])


def features_of(seed, n, d, b=None):
    shape = (n, d) if b is None else (b, n, d)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_unit_rows_have_length_one_and_a_zero_row_stays_zero():
    rows = unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    assert rows.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0]]


def test_unit_rows_of_half_precision_are_float32():
    assert unit_rows(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.float32


def test_min_max_by_hand():
    assert min_max(torch.tensor([1.0, 3.0, 2.0])).tolist() == pytest.approx([0.0, 1.0, 0.5])


def test_min_max_of_equal_scores_is_all_ones():
    assert min_max(torch.full((3,), 7.0)).tolist() == [1.0, 1.0, 1.0]


def test_min_max_works_row_by_row():
    rows = torch.tensor([[1.0, 3.0], [5.0, 5.0]])
    assert min_max(rows).tolist() == [[0.0, pytest.approx(1.0)], [1.0, 1.0]]


def test_flatten_equal_removes_rounding_and_nothing_else():
    rounding = torch.tensor([2.0, 2.0 + 1e-4, 2.0 - 0.5e-4])
    opinion = torch.tensor([2.0, 2.1, 2.0])
    flat = flatten_equal(rounding)
    assert flat.unique().numel() == 1
    assert torch.equal(flatten_equal(opinion), opinion)


def test_top_slots_gives_ties_to_the_lowest_slot():
    assert top_slots(torch.tensor([1.0, 5.0, 1.0, 5.0, 1.0]), 4).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize(
    ("n", "keep", "slots"), [(4, 2, [1, 3]), (9, 3, [1, 4, 7]), (5, 5, [0, 1, 2, 3, 4]), (6, 1, [3])]
)
def test_even_slots_are_the_middles_of_equal_stretches(n, keep, slots):
    assert even_slots(n, keep).tolist() == slots


@given(n=st.integers(1, 300), data=st.data())
def test_even_slots_are_unique_and_within_range(n, data):
    keep = data.draw(st.integers(1, n))
    slots = even_slots(n, keep).tolist()
    assert len(slots) == keep and slots == sorted(set(slots)) and 0 <= slots[0] and slots[-1] < n


def test_without_weights_the_most_isolated_token_comes_first():
    # nearest-neighbour angles: 10, 10, 80, 110 -> token 3; then token 1 (170 away, token 0 is 160 away)
    assert max_min_diversity(PLANE, 4).tolist() == [3, 1, 2, 0]


def test_with_weights_the_heaviest_token_comes_first():
    # first token 0 (weight 1); gains: 1: .5 * .015, 2: .4 * 1, 3: .9 * 1.94 -> 3; then 2 (.4) before 1
    weights = torch.tensor([1.0, 0.5, 0.4, 0.9])
    assert max_min_diversity(PLANE, 3, weights).tolist() == [0, 3, 2]


def test_chosen_tokens_repel_but_are_not_returned():
    assert max_min_diversity(PLANE, 2, chosen=torch.tensor([0])).tolist() == [3, 2]


def test_nothing_to_pick_gives_no_slots():
    assert max_min_diversity(PLANE, 0).tolist() == []


def test_identical_tokens_are_picked_in_order_and_once():
    assert max_min_diversity(torch.ones(4, 3), 4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n", "keep"), [(20, 5), (33, 33)])
def test_running_minimum_equals_the_naive_reference(seed, n, keep):
    features = features_of(seed, n, 12)
    weights = torch.rand(n, generator=torch.Generator().manual_seed(seed + 100))
    assert max_min_diversity(features, keep).tolist() == diversity.divprune(features, keep)
    picks = max_min_diversity(features, keep, min_max(weights))
    assert picks.tolist() == diversity.zoo_prune(features, weights, keep)


def test_column_by_column_similarity_equals_the_matrix(monkeypatch):
    features = features_of(0, 40, 8, b=2)
    whole = Similarity(features)
    picks = max_min_diversity(features, 12)
    monkeypatch.setattr(similarity, "GRAM_LIMIT", 16)
    columns = Similarity(features)
    assert whole.matrix is not None and columns.matrix is None
    slots = torch.tensor([3, 39])
    torch.testing.assert_close(whole.column(slots), columns.column(slots))
    assert torch.equal(whole.most_isolated(), columns.most_isolated())
    assert torch.equal(max_min_diversity(features, 12), picks)


@pytest.mark.parametrize("counts", [None, [40, 7, 23]])
@pytest.mark.parametrize("given", ["weights", "chosen", "both"])
def test_the_loops_in_torch_and_numpy_pick_the_same(counts, given):
    features = features_of(1, 40, 8, b=3)
    generator = torch.Generator().manual_seed(5)
    weights = None if given == "chosen" else torch.rand(3, 40, generator=generator)
    start = torch.tensor([[2, 5], [0, 6], [22, 1]])[:, : 1 if given == "weights" else 2]
    sizes = None if counts is None else torch.tensor(counts)
    similarity = Similarity(features)
    picks = max_min.pick_torch(similarity, 12, weights, start, sizes)
    assert torch.equal(max_min_numpy.pick_numpy(similarity, 12, weights, start, sizes), picks)
    assert (picks == -1).sum() == (0 if counts is None else 12 - (7 - start.shape[1]))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("block", [8, 16, 128])
def test_rows_made_when_asked_for_are_those_of_the_whole_matrix(monkeypatch, block, weighted):
    features = features_of(4, 60, 8, b=2)
    weights = torch.rand(2, 60, generator=torch.Generator().manual_seed(6)) if weighted else None
    chosen = None if weighted else torch.tensor([[3], [59]])
    picks = max_min_diversity(features, 30, weights, chosen)
    made = []
    make = max_min_numpy.Rows._compute
    monkeypatch.setattr(
        max_min_numpy.Rows, "_compute", lambda rows, slots: made.append(len(slots)) or make(rows, slots)
    )
    monkeypatch.setattr(max_min_numpy, "BLOCK", block)
    monkeypatch.setattr(functional, "LAZY_FROM", 0)
    assert torch.equal(max_min_diversity(features, 30, weights, chosen), picks)
    assert 0 < sum(made) <= 2 * 60 and max(made) <= block


def test_heavy_tokens_are_made_ready_together(monkeypatch):
    # the heavier the token the sooner it is picked, so that blocks of 8 hold the next 8 picks each
    weights = 2.0 ** -torch.arange(32)
    features = torch.eye(32)
    made = []
    make = max_min_numpy.Rows._compute
    monkeypatch.setattr(
        max_min_numpy.Rows, "_compute", lambda rows, slots: made.append(sorted(slots)) or make(rows, slots)
    )
    monkeypatch.setattr(max_min_numpy, "BLOCK", 8)
    monkeypatch.setattr(functional, "LAZY_FROM", 0)
    assert max_min_diversity(features, 24, weights).tolist() == list(range(24))
    assert made == [list(range(8)), list(range(8, 16)), list(range(16, 24))]


def test_a_stack_is_picked_like_its_images_one_by_one():
    features = features_of(3, 30, 6, b=4)
    weights = torch.rand(4, 30, generator=torch.Generator().manual_seed(3))
    together = max_min_diversity(features, 9, weights)
    apart = [max_min_diversity(f, 9, w) for f, w in zip(features, weights, strict=True)]
    assert torch.equal(together, torch.stack(apart))


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 40), data=st.data())
def test_picks_are_unique_and_scaling_rows_changes_nothing(seed, n, data):
    keep = data.draw(st.integers(1, n))
    features = features_of(seed, n, 7)
    picks = max_min_diversity(features, keep)
    assert len(picks) == keep == picks.unique().numel()
    factors = 2.0 ** torch.randint(-3, 4, (n, 1), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(max_min_diversity(features * factors, keep), picks)  # powers of two: exact


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(2, 30))
def test_permuting_tokens_permutes_picks(seed, n):
    # two tokens are always each other's nearest: the first pick is a tie, so weights decide it here
    generator = torch.Generator().manual_seed(seed)
    features, weights = features_of(seed, n, 7), torch.rand(n, generator=generator) + 0.5
    keep = max(1, n // 2)
    shuffle = torch.randperm(n, generator=generator)
    picks = max_min_diversity(features, keep, weights)
    shuffled = max_min_diversity(features[shuffle], keep, weights[shuffle])
    assert shuffle[shuffled].tolist() == picks.tolist()


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), copies=st.integers(2, 4))
def test_a_duplicate_is_chosen_only_when_all_distinct_tokens_are(seed, copies):
    features = features_of(seed, 6, 5).repeat(copies, 1)
    picks = max_min_diversity(features, 6 * copies)
    assert picks.unique().numel() == 6 * copies
    assert (picks[:6] % 6).unique().numel() == 6


def test_mean_attention_is_the_mean_of_the_whole_map(monkeypatch):
    query, key = torch.randn(3, 11, 4), torch.randn(3, 7, 4)
    whole = (query.double() @ key.double().mT * 0.5).softmax(-1).mean((0, 1))
    torch.testing.assert_close(functional.mean_attention(query, key, 0.5), whole.float())
    monkeypatch.setattr(functional, "MAP_BYTES", 4 * 3 * 7 * 2)  # two queries at a time
    torch.testing.assert_close(functional.mean_attention(query, key, 0.5), whole.float())
