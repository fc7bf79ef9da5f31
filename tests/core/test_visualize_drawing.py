# SPDX-License-Identifier: Apache-2.0
"""One picture and its grid: kept patches stay as they are, the others fade; scores become colours."""

import numpy as np
import pytest
import torch
from PIL import Image
from tokenprune_visualize import captioned, in_rows, kept_picture, score_picture, sheet
from tokenprune_visualize.drawing import BORDER, COLORS, OPACITY, PICTURE_SIDE
from tokenprune_visualize.sheets import GAP

RED = (200, 20, 20)


def plain(color=RED, side=24):
    return np.full((side, side, 3), color, np.uint8)


def patch(picture, row, column, side):
    """Pixels of one patch without its border, (side - 2, side - 2, 3)."""
    array = np.asarray(picture)
    return array[row * side + 1 : (row + 1) * side - 1, column * side + 1 : (column + 1) * side - 1]


def test_a_kept_patch_keeps_its_colours_and_gets_a_border():
    picture = kept_picture(plain(), (3, 3), [4], cell=10)
    assert picture.size == (30, 30)
    assert (patch(picture, 1, 1, 10) == RED).all()
    array = np.asarray(picture)
    assert (array[10, 10:20] == BORDER).all() and (array[19, 10:20] == BORDER).all()
    assert (array[10:20, 10] == BORDER).all() and (array[10:20, 19] == BORDER).all()


def test_a_dropped_patch_is_light_grey():
    picture = np.asarray(kept_picture(plain(), (3, 3), [4], cell=10))
    dropped = picture[:10, :10]
    assert (dropped == dropped[..., :1]).all()
    assert dropped.min() > 190


def test_dropped_patches_still_show_dark_and_light():
    image = plain((0, 0, 0))
    image[:, 12:] = 255
    picture = np.asarray(kept_picture(image, (2, 2), [], cell=10)).astype(int)
    assert picture[5, 18, 0] - picture[5, 2, 0] > 20


def test_without_a_choice_the_image_is_shown_as_it_is():
    picture = kept_picture(plain(), (3, 3), None, cell=10)
    assert (np.asarray(picture) == RED).all()


def test_rows_and_columns_are_not_mixed_up():
    picture = kept_picture(plain(), (2, 4), [5], cell=10)  # slot 5: second row, second column
    assert picture.size == (40, 20)
    assert (patch(picture, 1, 1, 10) == RED).all()
    assert not (patch(picture, 0, 1, 10) == RED).all()


def test_kept_slots_may_come_in_any_order_and_as_numpy_numbers():
    one = kept_picture(plain(), (3, 3), np.array([8, 0]), cell=10)
    other = kept_picture(plain(), (3, 3), [0, 8], cell=10)
    assert one.tobytes() == other.tobytes()


def test_the_default_size_follows_the_longer_side():
    assert kept_picture(plain(), (12, 12), None).size == (PICTURE_SIDE, PICTURE_SIDE)
    assert kept_picture(plain(), (24, 12), None).size == (PICTURE_SIDE // 24 * 12, PICTURE_SIDE)


def test_a_picture_that_is_no_rgb_is_taken_too():
    grey = Image.new("L", (24, 24), 90)
    assert kept_picture(grey, (3, 3), None).mode == "RGB"


@pytest.mark.parametrize("slot", [-1, 9])
def test_a_slot_outside_the_grid_is_refused(slot):
    with pytest.raises(ValueError, match=rf"slots \[{slot}\] lie outside a grid of 3 x 3"):
        kept_picture(plain(), (3, 3), [0, slot])


def test_scores_become_colours_over_the_shades():
    weights = torch.tensor([[0.0, 0.5], [1.0, torch.nan]])
    picture = np.asarray(score_picture(plain((100, 100, 100)), weights, cell=10))
    assert picture.shape == (20, 20, 3)
    for (row, column), color in zip([(0, 0), (0, 1), (1, 0)], COLORS, strict=True):
        expected = [round(OPACITY * channel + (1 - OPACITY) * 100) for channel in color]
        assert (picture[10 * row : 10 * row + 10, 10 * column : 10 * column + 10] == expected).all()
    dropped = np.asarray(kept_picture(plain((100, 100, 100)), (2, 2), [], cell=10))
    assert (picture[10:, 10:] == dropped[10:, 10:]).all()  # without a score: as what was dropped


def test_colours_between_two_are_mixed():
    picture = np.asarray(score_picture(plain((0, 0, 0)), torch.tensor([[0.25]]), cell=4))
    low, middle, _ = COLORS
    expected = [OPACITY * (a + b) / 2 for a, b in zip(low, middle, strict=True)]
    assert np.abs(picture - np.array(expected)).max() <= 0.5


def test_pictures_in_rows():
    red, blue = Image.new("RGB", (20, 10), RED), Image.new("RGB", (20, 10), (0, 0, 255))
    whole = np.asarray(in_rows([red, blue, blue, red, blue]))
    assert whole.shape == (2 * 10 + 3 * GAP, 4 * 20 + 5 * GAP, 3)
    last = whole[2 * GAP + 10 : 2 * GAP + 20]
    assert (last[:, GAP : GAP + 20] == (0, 0, 255)).all() and (last[:, GAP + 20 :] == 255).all()
    with pytest.raises(ValueError, match="at least one picture"):
        in_rows([])


def test_captions_go_below_and_wrap():
    picture = kept_picture(plain(), (3, 3), None, cell=40)
    one, two = captioned(picture, ["short"]), captioned(picture, ["a caption that is far too long for it"])
    assert one.width == two.width == 120
    assert two.height > one.height > 120
    assert np.asarray(one)[:120].tobytes() == picture.tobytes()
    assert np.asarray(one)[120:].min() < 128  # something is written there


def test_a_sheet_places_every_picture():
    red, blue = Image.new("RGB", (20, 10), RED), Image.new("RGB", (20, 10), (0, 0, 255))
    whole = np.asarray(sheet([[red, blue], [blue, red]]))
    assert whole.shape == (2 * 10 + 3 * GAP, 2 * 20 + 3 * GAP, 3)
    assert (whole[GAP : GAP + 10, GAP : GAP + 20] == RED).all()
    assert (whole[GAP : GAP + 10, 2 * GAP + 20 : 2 * GAP + 40] == (0, 0, 255)).all()
    assert (whole[2 * GAP + 10 : 2 * GAP + 20, 2 * GAP + 20 : 2 * GAP + 40] == RED).all()


def test_column_titles_stand_above():
    red = Image.new("RGB", (60, 10), RED)
    titled = sheet([[red, red]], ["one", "two"])
    assert titled.height > sheet([[red, red]]).height
    assert np.asarray(titled)[: titled.height - 10 - GAP].min() < 128


@pytest.mark.parametrize("rows", [[], [[]], [[1], [1, 2]]])
def test_a_sheet_needs_pictures_in_equal_rows(rows):
    picture = Image.new("RGB", (4, 4))
    with pytest.raises(ValueError, match="rows of equal length"):
        sheet([[picture for _ in row] for row in rows])
