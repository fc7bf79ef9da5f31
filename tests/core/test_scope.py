# SPDX-License-Identifier: Apache-2.0
"""Budgets of tiled images, counted by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tokenprune
from tokenprune import Budget, Layout, Selection
from tokenprune.scope import Share, cover_slices, join, share_out
from tokenprune.selection import sizes_after


def tiled(*sizes, newlines=0, full=5):
    """Tiles of these sizes, then newline tokens that belong to the last tile."""
    tiles = torch.cat([torch.full((n,), i) for i, n in enumerate(sizes)])
    tiles = torch.cat([tiles, tiles.new_full((newlines,), len(sizes) - 1)])
    is_newline = torch.zeros(len(tiles), dtype=torch.bool)
    is_newline[len(tiles) - newlines :] = True
    return Layout((1, 1, len(tiles)), tiles, is_newline, full)


@pytest.mark.parametrize(
    ("sizes", "keep", "want"),
    [
        ((576,) * 5, 160, [32] * 5),  # the supplement's C.2
        ((576,) * 4, 160, [32] * 4),
        ((576,) * 3, 160, [32] * 3),
        ((576,), 160, [32]),
        ((576,) * 5, 162, [33, 33, 32, 32, 32]),
        ((576, 10, 576), 160, [43, 10, 43]),  # a tile cropped to 10 gives 22 to the others
        ((576,) * 5, 2, [1, 1]),
        ((576,), 1, [1]),  # never less than a row
    ],
)
def test_tile_scope_shares_equally_and_shrinks_with_the_tiles(sizes, keep, want):
    shares = share_out(tiled(*sizes), "tile", "drop", Budget(keep))
    assert [share.rows for share in shares] == want


@pytest.mark.parametrize(
    ("sizes", "keep", "want"),
    [
        ((576,) * 5, 160, [32] * 5),
        ((576,) * 3, 160, [54, 53, 53]),  # the whole budget, whatever the number of tiles
        ((576,), 160, [160]),
        ((576, 10, 576), 160, [76, 10, 74]),
        ((576,) * 5, 2, [1, 1]),
    ],
)
def test_split_scope_shares_the_whole_budget_equally(sizes, keep, want):
    shares = share_out(tiled(*sizes), "split", "drop", Budget(keep))
    assert [share.rows for share in shares] == want


def test_a_share_of_the_tokens_does_not_shrink_again():
    layout = tiled(100, 100, newlines=20)
    assert [s.rows for s in share_out(layout, "tile", "drop", Budget(keep_ratio=0.5))] == [55, 55]


def test_image_scope_and_newlines():
    layout = tiled(8, 8, newlines=4)
    count = {}
    for newlines in ("drop", "compete", "keep"):
        method = tokenprune.Method("m", scope="image", newlines=newlines)
        count[newlines] = [method.n_keep(layout, keep) for keep in (3, 17, 19, 20)]
    assert count == {"drop": [3, 16, 16, 20], "compete": [3, 17, 19, 20], "keep": [7, 20, 20, 20]}


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(any),
    st.integers(0, 5),
    st.integers(1, 80),
    st.sampled_from(["image", "tile", "split"]),
    st.sampled_from(["drop", "compete", "keep"]),
)
def test_select_keeps_exactly_what_n_keep_says(sizes, newlines, keep, scope, policy):
    layout = tiled(*sizes, newlines=newlines)
    n = len(layout)
    tokens = tokenprune.VisualTokens(
        torch.randn(n, 4, generator=torch.Generator().manual_seed(n)), layout=layout
    )
    method = tokenprune.Method("m", selector="diverse", scope=scope, newlines=policy)
    selection = method.select(tokens, keep)
    assert len(selection) == method.n_keep(layout, keep)
    slots = selection.indices.tolist()
    assert slots == sorted(set(slots)) and 0 <= slots[0] and slots[-1] < n
    if len(slots) < n and policy == "drop" and newlines:
        assert not layout.newlines[selection.indices].any()
    if policy == "keep":
        assert set(layout.newlines.nonzero().flatten().tolist()) <= set(slots)


def test_tiles_are_scored_and_chosen_on_their_own():
    """Min-max and the first pick happen inside each tile."""
    layout = tiled(3, 3, full=2)
    features = torch.eye(6)

    class Given(tokenprune.Scorer):
        name = "given"
        needs = frozenset({"given"})

        def score(self, tokens):
            return tokens.signal("given")

    tokens = tokenprune.VisualTokens(features, {"given": torch.tensor([9.0, 8, 7, 1, 3, 2])}, layout)
    both = tokenprune.Method("m", scorer=Given(), scope="tile").select(tokens, 2)
    assert both.indices.tolist() == [0, 4] and both.order.tolist() == [0, 4]
    assert both.scores.tolist() == [9, 8, 7, 1, 3, 2]
    one = tokenprune.Method("m", scorer=Given(), scope="image").select(tokens, 2)
    assert one.indices.tolist() == [0, 1]


def test_rows_of_tiles_are_joined_in_the_packed_order():
    """First tile as it is; then kept rows by slot, leading new rows tile by tile, the other new rows."""
    shares = [
        Share(torch.tensor([0, 1, 2]), 3, 0),
        Share(torch.tensor([3, 5]), 3, 1),
        Share(torch.tensor([4, 6]), 3, 2),
    ]
    rows = [torch.arange(3.0).view(3, 1) + 10 * i for i in range(3)]
    parts = [
        Selection(torch.tensor([-1, 1, -1]), features=rows[0]),
        Selection(torch.tensor([-1, 1, -1]), features=rows[1]),
        Selection(torch.tensor([-1, 0, -1]), features=rows[2]),
    ]
    features = torch.arange(100, 108.0).view(8, 1)
    joined = join(shares, parts, torch.tensor([7]), features)
    assert joined.indices.tolist() == [-1, 1, -1, 4, 5, 7, -1, -1, -1, -1]
    assert joined.features.flatten().tolist() == [0, 1, 2, 21, 11, 107, 10, 20, 12, 22]


def test_new_rows_of_tiles_of_different_budgets_stay_tile_by_tile():
    shares = [Share(torch.arange(4) + 4 * i, n, i) for i, n in enumerate((4, 4, 2))]
    parts = [
        Selection(torch.tensor([0, *[-1] * (share.rows - 1)]), features=torch.full((share.rows, 1), i))
        for i, share in enumerate(shares)
    ]
    joined = join(shares, parts, torch.tensor([], dtype=torch.long), torch.zeros(12, 1))
    assert joined.features.flatten().tolist() == [0, 0, 0, 0, 1, 2, 1, 1, 1, 2]


def test_newlines_that_stay_stand_among_the_rows_of_the_image():
    layout = Layout((1, 1, 6), torch.zeros(6), torch.tensor([0, 0, 1, 0, 0, 1], dtype=torch.bool))
    tokens = tokenprune.VisualTokens(torch.eye(6), layout=layout)
    for scope in ("image", "tile", "split"):
        method = tokenprune.Method("m", scorer="uniform", newlines="keep", scope=scope)
        assert method.select(tokens, 2).indices.tolist() == [1, 2, 4, 5]


def test_every_slice_of_a_video_keeps_a_row_where_the_budget_allows():
    """Three slices of two tokens; by score alone the last slice would get nothing."""
    layout = Layout((3, 1, 2))
    scores = torch.tensor([9.0, 8, 7, 6, 1, 2])

    class Given(tokenprune.Scorer):
        name = "given"

        def score(self, tokens):
            return tokens.signal("given")

    tokens = tokenprune.VisualTokens(torch.eye(6), {"given": scores}, layout)
    method = tokenprune.Method("m", scorer=Given())
    three = method.select(tokens, 3)
    assert three.order.tolist() == [0, 2, 5] and three.indices.tolist() == [0, 2, 5]
    assert method.select(tokens, 4).indices.tolist() == [0, 1, 2, 5]
    assert method.select(tokens, 2).indices.tolist() == [0, 1]  # fewer rows than slices: by score


def test_rows_that_a_tile_changed_stay_changed_and_others_are_the_images_own():
    shares = [Share(torch.tensor([0, 1, 2]), 2, 0), Share(torch.tensor([3, 4]), 1, 1)]
    changed = Selection(torch.tensor([0, 2]), features=torch.tensor([[10.0], [20.0]]))
    plain = Selection(torch.tensor([1]))
    features, newline = torch.arange(6.0).view(6, 1), torch.tensor([5])
    joined = join(shares, [changed, plain], newline, features)
    assert joined.indices.tolist() == [0, 2, 4, 5]
    assert joined.features.flatten().tolist() == [10, 20, 4, 5]
    assert joined.merged_into is None
    assert join(shares, [plain, plain], newline, features).features is None


def test_what_tiles_merged_is_told_in_the_images_slots():
    shares = [Share(torch.tensor([0, 1, 4]), 1, 0), Share(torch.tensor([2, 3]), 1, 1)]
    merging = Selection(torch.tensor([2]), features=torch.ones(1, 1), merged_into=torch.tensor([2, -1, 2]))
    joined = join(shares, [merging, Selection(torch.tensor([0]))], torch.tensor([6]), torch.zeros(7, 1))
    # token 1 is dropped without being merged, as are 3 and 5; 0 is merged into 4
    assert joined.indices.tolist() == [2, 4, 6]
    assert joined.merged_into.tolist() == [4, -1, 2, -1, 4, -1, 6]


def test_slices_are_covered_before_rows_are_merged_and_not_afterwards():
    layout = Layout((2, 1, 2))
    merged = Selection(torch.tensor([0, 1]), features=torch.ones(2, 1))
    paired = Selection(torch.tensor([0, 1]), merged_into=torch.tensor([0, 1, 0, 1]))
    for selection in (merged, paired):
        assert cover_slices(selection, layout, lambda slots: 0) is selection
    assert cover_slices(Selection(torch.tensor([0, 1])), layout, lambda slots: 0).indices.tolist() == [0, 2]


class Doubling(tokenprune.Reducer):
    """Doubles the kept rows."""

    name = "doubling"

    def n_selected(self, keep, n):
        return keep

    def reduce(self, tokens, selection, keep):
        return Selection(selection.indices, features=2 * tokens.features[selection.indices])


def test_changed_rows_of_tiles_and_videos_reach_the_caller():
    features = torch.arange(1.0, 7).view(6, 1)
    tiles = Layout((1, 1, 6), torch.tensor([0, 0, 0, 1, 1, 1]), full_tiles=2)
    for layout, scope in ((tiles, "tile"), (tiles, "image"), (Layout((3, 1, 2)), "image")):
        method = tokenprune.Method("m", reducer=Doubling(), scope=scope)
        chosen = method.select(tokenprune.VisualTokens(features, layout=layout), 4)
        assert torch.equal(chosen.features, 2 * features[chosen.indices])


def test_the_patches_that_rows_stand_for_by_hand():
    before, kept = torch.tensor([1.0, 2, 3, 4]), torch.tensor([0, 3])
    assert sizes_after(kept, None, before).tolist() == [1, 4]
    assert sizes_after(kept, torch.tensor([0, 0, 3, 3]), before).tolist() == [3, 7]
    assert sizes_after(kept, torch.tensor([0, -1, 0, 3]), before).tolist() == [4, 4]
    assert sizes_after(torch.tensor([0, -1]), None, before).tolist() == [1, 1]
    stacked = sizes_after(kept.repeat(2, 1), torch.tensor([[0, 0, 3, 3], [0, 3, 3, 3]]), before.repeat(2, 1))
    assert stacked.tolist() == [[3, 7], [1, 9]]
