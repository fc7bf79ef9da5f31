# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import tome as reference
from tokenprune_plugins import absorb
from tokenprune_plugins.absorb import merged_means, most_similar_kept, others

import tokenprune
from tokenprune import Layout, Selection, VisualTokens

ABSORB = tokenprune.reducer("absorb")


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_by_hand():
    # slots 1 and 3 are kept; 0 looks like 1, 2 and 4 like 3 (in direction, not in length)
    features = torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 9.0], [0.0, 1.0], [1.0, 2.0]])
    scores, order = torch.arange(5.0), torch.tensor([3, 1])
    selection = Selection(torch.tensor([1, 3]), order, scores=scores)
    chosen = ABSORB.reduce(VisualTokens(features), selection, keep=2)
    assert chosen.indices.tolist() == [1, 3] and chosen.order is order and chosen.scores is scores
    assert chosen.features.tolist() == [[3.0, 0.0], [pytest.approx(1 / 3), 4.0]]
    assert chosen.merged_into.tolist() == [1, 1, 3, 3, 3]


def test_a_tie_goes_to_the_lowest_slot_and_a_kept_token_stays_its_own():
    features = torch.tensor([[1.0, 0.0]] * 5)
    assert most_similar_kept(features, torch.tensor([1, 3])).tolist() == [1, 1, 1, 3, 1]
    chosen = ABSORB.reduce(VisualTokens(features), Selection(torch.tensor([1, 3])), keep=2)
    assert torch.equal(chosen.features, features[:2])


def test_a_row_of_zeros_is_as_similar_to_all():
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    assert most_similar_kept(features, torch.tensor([1, 2])).tolist() == [1, 1, 2]


def test_rows_that_nothing_is_merged_into_are_the_same_to_the_bit():
    features = drawn(6, 5)
    features[2] = 1.5 * features[0]
    chosen = ABSORB.reduce(VisualTokens(features), Selection(torch.tensor([0, 1, 3, 4, 5])), keep=5)
    assert torch.equal(chosen.features[1:], features[[1, 3, 4, 5]])
    torch.testing.assert_close(chosen.features[0], 1.25 * features[0])


@given(n=st.integers(2, 30), seed=st.integers(0, 99), data=st.data())
def test_equals_the_slow_reference(n, seed, data):
    kept = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=n)))
    features = drawn(n, 6, seed=seed)
    chosen = ABSORB.reduce(VisualTokens(features), Selection(torch.tensor(kept)), keep=len(kept))
    torch.testing.assert_close(
        chosen.features, torch.from_numpy(reference.absorbed(features, kept)).float(), rtol=1e-5, atol=1e-5
    )
    assert set(chosen.merged_into.tolist()) == set(kept)
    total = chosen.features * chosen.merged_into.bincount(minlength=n)[kept].unsqueeze(-1)
    torch.testing.assert_close(total.sum(0), features.sum(0), rtol=1e-4, atol=1e-4)  # nothing is lost


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_averaged_in_float32_and_returned_as_they_came(dtype):
    features = drawn(20, 8).to(dtype)
    selection = Selection(torch.tensor([2, 5, 11]))
    chosen = ABSORB.reduce(VisualTokens(features), selection, keep=3)
    whole = ABSORB.reduce(VisualTokens(features.float()), selection, keep=3)
    assert chosen.features.dtype == dtype and torch.equal(chosen.features, whole.features.to(dtype))


def test_a_stack_is_each_of_its_images():
    features = drawn(3, 12, 4)
    kept = torch.tensor([[0, 5, 7], [1, 2, 3], [4, 8, 11]])
    stacked = ABSORB.reduce(VisualTokens(features), Selection(kept), keep=3)
    for number, rows in enumerate(features):
        alone = ABSORB.reduce(VisualTokens(rows), Selection(kept[number]), keep=3)
        torch.testing.assert_close(stacked.features[number], alone.features)
        assert torch.equal(stacked.merged_into[number], alone.merged_into)


def test_similarities_that_do_not_fit_into_memory_are_computed_in_blocks(monkeypatch):
    features, kept = drawn(2, 40, 4), torch.tensor([[0, 5, 7], [1, 2, 3]])
    whole = ABSORB.reduce(VisualTokens(features), Selection(kept), keep=3)
    monkeypatch.setattr(absorb, "BLOCK", 30)
    parts = ABSORB.reduce(VisualTokens(features), Selection(kept), keep=3)
    assert torch.equal(parts.merged_into, whole.merged_into)
    torch.testing.assert_close(parts.features, whole.features)


def test_the_slots_that_are_not_kept():
    assert others(torch.tensor([[0, 3], [1, 2]]), 5).tolist() == [[1, 2, 4], [0, 3, 4]]


def test_weighted_means_by_hand():
    rows = torch.tensor([[1.0], [2.0], [10.0]])
    into, weights = torch.tensor([0, 0, 2]), torch.tensor([3.0, 1.0, 5.0])
    assert merged_means(rows, torch.tensor([0, 2]), into, weights).tolist() == [[1.25], [10.0]]


def test_keeping_everything_changes_nothing():
    method = tokenprune.Method("m", selector="diverse", reducer="absorb")
    chosen = method.select(VisualTokens(drawn(6, 3)), keep=6)
    assert chosen.indices.tolist() == list(range(6)) and chosen.features is None


def test_tiles_keep_their_averaged_rows():
    """Two tiles of three tokens and a newline token that is kept; each tile keeps its first token."""
    layout = Layout((1, 1, 7), torch.tensor([0, 0, 0, 1, 1, 1, 1]), torch.arange(7) == 6, 2)
    features = torch.tensor([[1.0], [2.0], [3.0], [10.0], [20.0], [30.0], [7.0]])
    scores = torch.tensor([3.0, 1, 1, 3, 1, 1])

    class Given(tokenprune.Scorer):
        name = "given"

        def score(self, tokens):
            return scores

    method = tokenprune.Method("m", scorer=Given(), reducer="absorb", scope="tile", newlines="keep")
    chosen = method.select(VisualTokens(features, layout=layout), keep=2)
    assert chosen.indices.tolist() == [0, 3, 6]
    assert chosen.features.flatten().tolist() == [2.0, 20.0, 7.0]
    assert chosen.merged_into.tolist() == [0, 0, 0, 3, 3, 3, 6]


def test_every_frame_of_a_video_keeps_a_row_before_rows_are_merged():
    scores = torch.tensor([9.0, 8, 7, 6, 1, 2])
    features = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1], [1, 0], [0, 1]])

    class Given(tokenprune.Scorer):
        name = "given"

        def score(self, tokens):
            return scores

    tokens = VisualTokens(features, layout=Layout((3, 1, 2)))
    chosen = tokenprune.Method("m", scorer=Given(), reducer="absorb").select(tokens, 3)
    assert chosen.indices.tolist() == [0, 2, 5] and chosen.order.tolist() == [0, 2, 5]
    assert chosen.merged_into.tolist() == [0, 0, 2, 2, 0, 5]


def test_rows_that_are_merged_nowhere_are_left_out():
    rows, into = torch.tensor([[1.0], [2.0], [3.0], [10.0]]), torch.tensor([0, -1, 0, 3])
    assert merged_means(rows, torch.tensor([0, 3]), into).tolist() == [[2.0], [10.0]]
