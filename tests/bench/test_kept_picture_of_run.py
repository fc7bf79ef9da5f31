# SPDX-License-Identifier: Apache-2.0
"""What `run --save` draws on: the view the tower got, the whole picture, or nothing for tiles."""

import pytest
import torch
from PIL import Image
from tokenprune_bench.cli.failures import BadInputError
from tokenprune_bench.cli.run import _kept_picture

from tokenprune import ImageReport, Layout

PICTURE = Image.new("RGB", (60, 40), (200, 20, 20))


def report(layout):
    return [ImageReport(0, layout, len(layout), 2, kept=torch.tensor([0, 5]))]


def test_packed_patches_are_drawn_on_the_whole_picture():
    drawn = _kept_picture(None, PICTURE, torch.zeros(24, 10), report(Layout((1, 2, 3))))
    assert drawn.size == (384, 256)
    assert drawn.getpixel((384 // 6, 256 // 4)) == (200, 20, 20)  # slot 0 is kept
    assert drawn.getpixel((384 // 2, 256 // 4)) != (200, 20, 20)  # slot 1 is not


@pytest.mark.parametrize(
    "layout",
    [Layout((1, 2, 3), tiles=torch.tensor([0, 0, 0, 1, 1, 1])), Layout((2, 1, 3))],
    ids=["tiles", "video"],
)
def test_tiles_and_frames_are_refused(layout):
    with pytest.raises(BadInputError, match="cuts it into pieces"):
        _kept_picture(None, PICTURE, torch.zeros(1, 2, 3, 8, 8), report(layout))


def test_several_views_without_a_grid_are_refused():
    for pixels in (torch.zeros(1, 2, 3, 8, 8), torch.zeros(2, 3, 8, 8)):
        with pytest.raises(BadInputError, match="cuts it into pieces"):
            _kept_picture(None, PICTURE, pixels, report(Layout((1, 1, 6))))


def test_several_images_are_refused():
    with pytest.raises(BadInputError, match="cuts it into pieces"):
        _kept_picture(None, PICTURE, torch.zeros(24, 10), report(Layout((1, 2, 3))) * 2)
