# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenprune_plugins.pool import n_bands, pooled

import tokenprune


def pool(features, grid, keep):
    tokens = tokenprune.VisualTokens(features, layout=tokenprune.Layout(grid))
    return tokenprune.method("pool").select(tokens, keep)


def test_by_hand():
    # 2 lines of 4: cells {0, 1, 4, 5} and {2, 3, 6, 7}
    features = torch.arange(8.0).unsqueeze(-1)
    chosen = pool(features, (1, 2, 4), keep=2)
    assert chosen.features.flatten().tolist() == [2.5, 4.5]
    assert chosen.indices.tolist() == [-1, -1]


def test_three_cells_of_two_bands():
    # 4 lines of 2 in bands of 1 and 2 cells: the upper two lines together, the lower two by column
    features = torch.arange(8.0).view(4, 2, 1)
    assert pooled(features, 3).flatten().tolist() == [1.5, 5.0, 6.0]


@pytest.mark.parametrize(("keep", "size"), [(144, 2), (64, 3), (36, 4), (16, 6), (1, 24)])
def test_budgets_that_divide_the_grid_are_plain_average_pooling(keep, size):
    features = torch.randn(576, 5, generator=torch.Generator().manual_seed(0))
    plain = torch.nn.functional.avg_pool2d(features.T.view(5, 24, 24), size).flatten(1).T
    torch.testing.assert_close(pool(features, (1, 24, 24), keep).features, plain)


@given(h=st.integers(1, 12), w=st.integers(1, 12), data=st.data())
def test_exactly_the_budget_and_every_token_has_its_share(h, w, data):
    n_cells = data.draw(st.integers(1, h * w))
    assert 1 <= n_bands(h, w, n_cells) <= h
    for slot in range(h * w):
        grid = torch.zeros(h * w, 1)
        grid[slot] = 1
        means = pooled(grid.view(h, w, 1), n_cells)
        assert means.shape == (n_cells, 1)
        assert means.sum() > 0


def test_a_constant_picture_stays_constant_and_keeps_its_type():
    features = torch.full((30, 4), 2.0, dtype=torch.bfloat16)
    chosen = pool(features, (1, 5, 6), keep=7)
    assert chosen.features.dtype == torch.bfloat16
    assert torch.equal(chosen.features, torch.full((7, 4), 2.0, dtype=torch.bfloat16))


def test_frames_of_a_video_stand_below_each_other():
    features = torch.arange(8.0).unsqueeze(-1)
    assert pool(features, (2, 2, 2), keep=2).features.flatten().tolist() == [1.5, 5.5]


def test_keeping_everything_changes_nothing():
    chosen = pool(torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), (1, 2, 3), keep=6)
    assert chosen.indices.tolist() == [0, 1, 2, 3, 4, 5] and chosen.features is None


def test_a_tile_is_pooled_on_its_own_grid():
    # a base of 2 x 2 and a canvas of 2 x 4 in two tiles, its rows ended by newlines (dropped)
    tiles = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2, 1, 1, 2, 2, 2])
    newlines = torch.zeros(14, dtype=torch.bool)
    newlines[[8, 13]] = True
    layout = tokenprune.Layout((1, 1, 14), tiles, newlines, 3, ((2, 2), (2, 2), (2, 2)))
    features = torch.arange(14.0).unsqueeze(-1)
    chosen = tokenprune.method("pool").select(tokenprune.VisualTokens(features, layout=layout), keep=6)
    # 2 rows a tile: its left two patches, its right two
    assert chosen.features.flatten().tolist() == [1.0, 2.0, 6.5, 7.5, 8.5, 9.5]
