# SPDX-License-Identifier: Apache-2.0
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenprune


def chosen_of(scores, keep, n=None):
    tokens = tokenprune.VisualTokens(torch.zeros(n or len(scores), 2))
    return tokenprune.selector("topk").select(tokens, scores, keep)


def test_by_hand():
    chosen = chosen_of(torch.tensor([0.1, 0.9, 0.3, 0.9]), keep=3)
    assert chosen.order.tolist() == [1, 3, 2]
    assert chosen.indices.tolist() == [1, 2, 3]


def test_without_scores_an_even_grid():
    assert chosen_of(None, keep=3, n=9).indices.tolist() == [1, 4, 7]


def test_without_scores_a_stack_gets_the_same_grid_everywhere():
    tokens = tokenprune.VisualTokens(torch.zeros(2, 9, 3))
    chosen = tokenprune.selector("topk").select(tokens, None, keep=3)
    assert chosen.indices.tolist() == [[1, 4, 7], [1, 4, 7]]


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 60), data=st.data())
def test_no_token_left_out_scores_higher_than_one_kept(seed, n, data):
    keep = data.draw(st.integers(1, n))
    scores = torch.randint(0, 8, (n,), generator=torch.Generator().manual_seed(seed)).float()
    indices = chosen_of(scores, keep).indices
    assert indices.tolist() == sorted(set(indices.tolist())) and len(indices) == keep
    left_out = torch.ones(n, dtype=torch.bool)
    left_out[indices] = False
    if left_out.any():
        border = scores[indices].min()
        assert scores[left_out].max() <= border
        tied_out = (left_out & (scores == border)).nonzero()
        tied_in = indices[scores[indices] == border]
        assert len(tied_out) == 0 or tied_in.max() < tied_out.min()  # ties go to the lowest slots
