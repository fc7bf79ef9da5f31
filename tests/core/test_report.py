# SPDX-License-Identifier: Apache-2.0
"""Reports and selections: counts, what was kept, and how they read."""

import xml.etree.ElementTree as ElementTree

import torch

from tokenprune import ImageReport, Layout, PruningHandle, PruningReport, Selection
from tokenprune.boundaries import CallTrace
from tokenprune.budget import Budget
from tokenprune.cut import Cut
from tokenprune.methods import Method
from tokenprune.notebook import N_ROWS, html_table

T = torch.tensor


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


def test_reprs_are_short():
    one = image(0, 6, [1, 2])
    assert repr(one) == "<ImageReport image 0 in row 0: 2 of 6 tokens kept>"
    alone = ImageReport(1, Layout((1, 2, 2)), 4, 4, note="fewer than min_tokens", number=1)
    assert repr(alone) == (
        "<ImageReport image 1 in row 1: 4 of 4 tokens kept, left alone: fewer than min_tokens>"
    )
    report = PruningReport((one, alone), 300, 1000, 0.0015)
    assert repr(report) == f"<PruningReport {report}>"
    assert repr(one.selection) == "<Selection of 2 rows, with scores>"
    assert repr(Selection(torch.zeros(3, 5))) == "<Selection of 3 x 5 rows>"
    assert repr(Layout((1, 2, 2))) == "Layout((1, 2, 2))"
    tiled = Layout(
        (1, 1, 6), T([0, 0, 1, 1, 1, 2]), T([0, 0, 0, 1, 0, 1]).bool(), 5, ((1, 2), (1, 1), (1, 1))
    )
    assert repr(tiled) == "Layout((1, 1, 6), 3 tiles of 5, 2 newlines)"
    assert repr(CallTrace(1, ())) == "<CallTrace of 0 boundaries, 1 new tokens>"


def tables(html):
    """The caption and the rows of each table of a page."""
    parsed = ElementTree.fromstring(f"<div>{html}</div>")
    return [
        (table.findtext("caption"), [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")])
        for table in parsed
    ]


HEADS = ["image", "row", "grid", "tokens", "kept", "cuts"]


def test_a_notebook_shows_a_report_as_a_table():
    layered = ImageReport(
        0, Layout((2, 3, 4)), 24, 6, kept=T([1]), cuts={0: 12, 3: 6}, modality="video", tower_cuts={4: 18},
        capped=True,
    )  # fmt: skip
    alone = ImageReport(1, Layout((1, 2, 2)), 4, 4, note="fewer than <5>", number=1)
    report = PruningReport((layered, alone), 300, 1000, 0.0015)
    ((caption, rows),) = tables(report._repr_html_())
    assert caption == str(report)
    cuts = "18 from tower block 4 on, 12 before the language model, 6 from layer 3 on, capped"
    assert rows == [
        HEADS,
        ["video 0", "0", "2 x 3 x 4", "24", "6", cuts],
        ["image 1", "1", "1 x 2 x 2", "4", "4", "left alone: fewer than <5>"],
    ]
    assert "fewer than &lt;5&gt;" in report._repr_html_()
    assert tables(alone._repr_html_()) == [("", [HEADS, rows[2]])]


def test_a_notebook_shows_a_handle_with_its_last_report():
    cut = Cut(Method("of <mine>", scorer="uniform", selector="topk"), Budget(3))
    handle = PruningHandle(torch.nn.Identity(), [cut], adapter="toy")
    shown = ("PruningHandle of <mine> keep=3, adapter toy, removed", [
        ["method", "budget", "stage"],
        ["of <mine>", "keep=3", "projector"],
    ])  # fmt: skip
    assert tables(handle._repr_html_()) == [shown]
    report = PruningReport((image(0, 6, [1, 2]),))
    handle._record(report)
    assert tables(handle._repr_html_()) == [shown, *tables(report._repr_html_())]


def test_long_tables_say_how_many_rows_there_are_more():
    rows = [(i, "a") for i in range(N_ROWS + 3)]
    ((caption, shown),) = tables(html_table("<b>", ("number", "letter"), rows))
    assert caption == "<b>" and len(shown) == N_ROWS + 2
    assert shown[1:2] + shown[-2:] == [["0", "a"], [str(N_ROWS - 1), "a"], ["and 3 more", ""]]
