# SPDX-License-Identifier: Apache-2.0
"""Drawing reports made by hand: which patch is clear, which is faded, which colour a score has."""

import io
import subprocess
import sys

import numpy as np
import pytest
import tokenprune_visualize
import torch
from PIL import Image
from tokenprune_visualize.drawing import COLORS, OPACITY
from tokenprune_visualize.sheets import GAP

import tokenprune
from tokenprune import ImageReport, IncompatibleError, Layout, PruningHandle, PruningReport, Selection

CELL = 10
T = torch.tensor


def report(layout, kept, scores=None, found=None, **more):
    kept = None if kept is None else T(kept)
    chosen = None if kept is None else Selection(kept, scores=None if scores is None else T(scores))
    n = len(layout) if kept is None else len(kept)
    return ImageReport(0, layout, len(layout), n, chosen, kept, found=found, **more)


def coloured(rows, columns):
    """A picture whose patches are one colour each, no two the same."""
    array = np.zeros((rows * CELL, columns * CELL, 3), np.uint8)
    for i in range(rows * columns):
        top, left = i // columns * CELL, i % columns * CELL
        array[top : top + CELL, left : left + CELL] = (200 - 9 * i, 60 + 5 * i, 20 + 7 * i)
    return array


def inner(picture, row, column, at=(0, 0)):
    """Pixels of one patch without its border."""
    top, left = at[0] + row * CELL, at[1] + column * CELL
    return np.asarray(picture)[top + 1 : top + CELL - 1, left + 1 : left + CELL - 1]


def is_clear(picture, image, row, column, at=(0, 0)):
    """Whether a patch shows the image's own pixels; if not it must be light grey."""
    drawn = inner(picture, row, column, at)
    if (drawn == inner(image, row, column)).all():
        return True
    assert (drawn == drawn[..., :1]).all() and drawn.min() > 190
    return False


def test_kept_patches_are_clear_and_dropped_ones_faded():
    image = coloured(2, 3)
    drawn = tokenprune_visualize.kept(report(Layout((1, 2, 3)), [1, 5]), image, cell=CELL)
    assert drawn.size == (30, 20)
    assert [is_clear(drawn, image, i // 3, i % 3) for i in range(6)] == [0, 1, 0, 0, 0, 1]


def test_a_notebook_gets_the_picture_as_png():
    drawn = tokenprune_visualize.kept(report(Layout((1, 2, 3)), [1, 5]), coloured(2, 3), cell=CELL)
    with Image.open(io.BytesIO(drawn._repr_png_())) as shown:
        assert shown.format == "PNG" and shown.convert("RGB").tobytes() == drawn.tobytes()


def test_an_image_left_alone_is_all_clear():
    image = coloured(2, 3)
    drawn = tokenprune_visualize.kept(report(Layout((1, 2, 3)), None), Image.fromarray(image), cell=CELL)
    assert (np.asarray(drawn) == image).all()


def test_rows_that_were_made_are_not_drawn():
    image = coloured(2, 2)
    drawn = tokenprune_visualize.kept(report(Layout((1, 2, 2)), [-1, 3, -1]), image, cell=CELL)
    assert [is_clear(drawn, image, i // 2, i % 2) for i in range(4)] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        ("a.png", {}, "a picture must be a PIL image or a numpy array, got str; open files with"),
        (torch.zeros(3, 9, 9), {}, "a picture must be a PIL image or a numpy array, got Tensor"),
        (coloured(2, 2), {"image": "a"}, "image= must be the index of an image in the report, got 'a'"),
    ],
)
def test_what_is_no_picture_is_refused(given, options, said):
    with pytest.raises(IncompatibleError, match=said):
        tokenprune_visualize.kept(report(Layout((1, 2, 2)), [0]), given, **options)


def test_a_model_is_no_report():
    with pytest.raises(IncompatibleError, match=r"got Linear; the handle of a pruned model is tokenprune"):
        tokenprune_visualize.kept(torch.nn.Linear(1, 1), coloured(2, 2))


def test_a_video_is_one_picture_a_slice():
    first, second = coloured(2, 2), coloured(2, 2)[::-1, ::-1]
    drawn = tokenprune_visualize.kept(report(Layout((2, 2, 2)), [0, 6]), [first, second], cell=CELL)
    assert drawn.size == (2 * 20 + 3 * GAP, 20 + 2 * GAP)
    left, right = (GAP, GAP), (GAP, 2 * GAP + 20)
    assert [is_clear(drawn, first, i // 2, i % 2, left) for i in range(4)] == [1, 0, 0, 0]
    assert [is_clear(drawn, second, i // 2, i % 2, right) for i in range(4)] == [0, 0, 1, 0]


# a base view of 2 x 2 patches, then a canvas of 1 x 2 tiles, the upper and lower line of 4 cut off: slots
#  0  1      4  5 |  6  7 (8 a newline)
#  2  3      9 10 | 11 12 (13 a newline)
TILED = Layout(
    (1, 1, 14),
    tiles=T([0] * 4 + [1, 1, 2, 2, 2] * 2),
    newlines=T([False] * 8 + [True] + [False] * 4 + [True]),
    full_tiles=5,
    tile_grids=((2, 2), (2, 2), (2, 2)),
)


def test_tiles_are_the_base_view_and_their_canvas():
    base, canvas = tokenprune_visualize.panels(TILED)
    assert (base.slots.tolist(), base.first, base.tiles) == ([[0, 1], [2, 3]], 0, (1, 1))
    assert canvas.slots.tolist() == [[4, 5, 6, 7], [9, 10, 11, 12]]
    assert (canvas.first, canvas.tiles) == (1, (1, 2))
    views = [coloured(2, 2), coloured(2, 4)]
    drawn = tokenprune_visualize.kept(report(TILED, [3, 6, 8, 9, 13]), views, cell=CELL)
    left, right = (GAP, GAP), (GAP, 2 * GAP + 20)
    assert [is_clear(drawn, views[0], i // 2, i % 2, left) for i in range(4)] == [0, 0, 0, 1]
    assert [is_clear(drawn, views[1], i // 4, i % 4, right) for i in range(8)] == [0, 0, 1, 0, 1, 0, 0, 0]


def test_tiles_without_newlines_are_drawn_one_by_one():
    layout = Layout((1, 1, 6), tiles=T([0, 0, 1, 1, 1, 1]), tile_grids=((1, 2), (2, 2)))
    assert [p.slots.tolist() for p in tokenprune_visualize.panels(layout)] == [[[0, 1]], [[2, 3], [4, 5]]]


def test_scores_are_colours_between_the_lowest_and_the_highest():
    grey = np.full((20, 20, 3), 100, np.uint8)
    drawn = tokenprune_visualize.scores(report(Layout((1, 2, 2)), [0], [7.0, 5.0, 6.0, 5.0]), grey, cell=CELL)
    for slot, color in enumerate([COLORS[2], COLORS[0], COLORS[1], COLORS[0]]):
        expected = [round(OPACITY * channel + (1 - OPACITY) * 100) for channel in color]
        assert np.abs(inner(drawn, slot // 2, slot % 2).astype(int) - expected).max() <= 1
    array = np.asarray(drawn)
    assert array[20, 0].tolist() == list(COLORS[0]) and array[20, -1].tolist() == list(COLORS[-1])  # the bar
    assert array[29:].min() < 128  # what lowest and highest are


def test_tokens_dropped_by_an_earlier_cut_have_no_score():
    image = coloured(2, 2)
    twice = report(Layout((1, 2, 2)), [3], [1.0, 2.0], found=T([0, 3]))
    drawn = tokenprune_visualize.scores(twice, image, cell=CELL)
    faded = tokenprune_visualize.kept(report(Layout((1, 2, 2)), [3]), image, cell=CELL)
    assert (inner(drawn, 0, 1) == inner(faded, 0, 1)).all() and (
        inner(drawn, 1, 0) == inner(faded, 1, 0)
    ).all()
    assert inner(drawn, 1, 1).mean() > inner(drawn, 0, 0).mean()  # the higher of the two is lighter


def test_newlines_do_not_spread_the_colours():
    values = [0.0] * 8 + [99.0] + [0.0] * 3 + [1.0, -99.0]
    drawn = tokenprune_visualize.scores(
        report(TILED, [4], values), np.full((9, 9, 3), 0, np.uint8), cell=CELL
    )
    top = [round(OPACITY * channel) for channel in COLORS[2]]
    assert np.abs(inner(drawn, 1, 3, (GAP, 2 * GAP + 20)).astype(int) - top).max() <= 1  # slot 12


def test_a_handle_draws_its_last_report_and_the_image_asked_for():
    image = coloured(1, 1)
    handle = PruningHandle(torch.nn.Identity(), [])
    with pytest.raises(IncompatibleError, match="no report yet"):
        tokenprune_visualize.kept(handle, image)
    one, other = report(Layout((1, 2, 2)), [0]), report(Layout((1, 2, 2)), [3])
    handle._record(PruningReport((one, other)))
    drawn = tokenprune_visualize.kept(handle, image, image=1, cell=CELL)
    assert drawn.tobytes() == tokenprune_visualize.kept(other, image, cell=CELL).tobytes()
    with pytest.raises(IncompatibleError, match=r"image=2, but the report has 2 image\(s\)"):
        tokenprune_visualize.kept(handle, image, image=2)


class Axes:
    """What matplotlib axes are asked to do."""

    def imshow(self, picture):
        self.picture = picture

    def set_axis_off(self):
        self.off = True


def test_axes_get_the_same_picture():
    axes = Axes()
    drawn = tokenprune_visualize.kept(report(Layout((1, 2, 2)), [0]), coloured(2, 2), axes=axes)
    assert (axes.picture == np.asarray(drawn)).all() and axes.off


@pytest.mark.parametrize(
    ("layout", "given", "message"),
    [
        (Layout((1, 1, 6)), {"picture": coloured(1, 1)}, "has no positions in the picture"),
        (Layout((1, 1, 4), newlines=T([0, 0, 0, 1]).bool()), {"picture": coloured(1, 1)}, "has no positions"),
        (Layout((1, 2, 2)), {}, "give either picture=, or inputs= together with processor="),
        (Layout((1, 2, 2)), {"picture": coloured(1, 1), "inputs": {}}, "give either"),
        (Layout((1, 2, 2)), {"inputs": {}}, "give either"),
        (
            Layout((2, 2, 2)),
            {"picture": [coloured(1, 1)]},
            "1 pictures were given, but this image is drawn as 2",
        ),
        (Layout((1, 2, 2)), {"inputs": {}, "processor": 1}, "these inputs contain no image"),
        (
            Layout((1, 2, 2)),
            {"inputs": {"pixel_values": torch.zeros(1, 3, 8, 6)}, "processor": 1},
            "2 x 2 patches, which do not fit the 8 x 6 pixels",
        ),
        (
            Layout((1, 2, 2)),
            {"inputs": {"pixel_values": torch.zeros(4, 6)}, "processor": 1},
            "packed pixels require image_grid_thw",
        ),
        (
            Layout((1, 2, 2)),
            {"inputs": {"pixel_values": torch.zeros(1, 4, 6)}, "processor": 1},
            r"pixels of shape \(1, 4, 6\)",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(layout, given, message):
    with pytest.raises(IncompatibleError, match=message):
        tokenprune_visualize.kept(report(layout, [0]), **given)


def test_no_scores_no_heat_map():
    image = coloured(1, 1)
    with pytest.raises(IncompatibleError, match="its method does not use scores"):
        tokenprune_visualize.scores(report(Layout((1, 2, 2)), [0]), image)
    with pytest.raises(IncompatibleError, match=r"left alone \(budget not below N\)"):
        tokenprune_visualize.scores(report(Layout((1, 2, 2)), None, note="budget not below N"), image)


def test_an_image_the_inputs_do_not_bring_is_refused():
    inputs = {"pixel_values": torch.zeros(1, 3, 8, 8)}
    with pytest.raises(IncompatibleError, match=r"contain 1 image\(s\), but index 1"):
        tokenprune_visualize.kept(report(Layout((1, 2, 2)), [0], number=1), inputs=inputs, processor=1)


def test_matplotlib_is_loaded_only_for_axes():
    code = "import sys, tokenprune_visualize; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize(
    "code",
    [
        "import tokenprune.visualize",
        "from tokenprune.visualize import kept",
        "from tokenprune import visualize",
        "import tokenprune; tokenprune.visualize.kept",
    ],
)
def test_the_old_module_names_the_new_package(code):
    with pytest.raises(ImportError, match="is now a package of its own: import tokenprune_visualize"):
        exec(code, {})
    assert not hasattr(tokenprune, "visualise")
