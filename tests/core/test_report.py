# SPDX-License-Identifier: Apache-2.0
"""Reports and selections: counts, what was kept, and how they read."""

import torch

from tokenprune import ImageReport, Layout, PruningReport, Selection


def test_a_pure_selection_comes_from_the_picks_in_their_order():
    selection = Selection.from_order(torch.tensor([7, 0, 3]))
    assert selection.indices.tolist() == [0, 3, 7]
    assert selection.order.tolist() == [7, 0, 3]
    assert len(selection) == 3
    assert (selection.features, selection.scores) == (None, None)


def test_a_stack_of_selections_is_sorted_image_by_image():
    selection = Selection.from_order(torch.tensor([[7, 0, 3], [1, 5, 2]]))
    assert selection.indices.tolist() == [[0, 3, 7], [1, 2, 5]]
    assert len(selection) == 3


def image(row, n_before, kept):
    scores = torch.arange(float(n_before))
    selection = Selection(torch.tensor(kept), scores=scores)
    return ImageReport(row, Layout((1, 1, n_before)), n_before, len(kept), selection, kept=selection.indices)


def test_a_report_counts_all_images():
    report = PruningReport((image(0, 6, [1, 2]), image(1, 4, [3])), 300, 1000, 0.0015)
    assert (report.n_before, report.n_after) == (10, 3)
    assert report.images[0].kept.tolist() == [1, 2]
    assert report.images[1].scores.tolist() == [0, 1, 2, 3]
    assert str(report) == (
        "3 of 10 visual tokens kept in 2 image(s), key-value cache 300 of 1000 bytes, chosen in 1.5 ms"
    )


def test_an_image_left_alone_has_no_selection():
    alone = ImageReport(0, Layout((1, 2, 2)), 4, 4, note="fewer than min_tokens")
    assert (alone.kept, alone.scores) == (None, None)
