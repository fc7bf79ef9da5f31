# SPDX-License-Identifier: Apache-2.0
"""What `run --save` draws: the picture as the tower got it, pieces beside each other, answer below."""

import numpy as np
import torch
from tokenprune_cli.run.picture import kept_picture
from tokenprune_visualize import captioned, in_rows, kept

from tokenprune import ImageReport, Layout, PruningReport


class Parts:
    """A processor whose pixels are as they are."""

    do_normalize = do_rescale = False


def report(numbers):
    layout = Layout((1, 2, 3))
    images = [ImageReport(0, layout, 6, 2, kept=torch.tensor([0, 5]), number=n) for n in numbers]
    return PruningReport(tuple(images))


def test_one_picture_with_its_lines():
    inputs = {"pixel_values": torch.full((1, 3, 20, 30), 80.0)}
    drawn = kept_picture(Parts, inputs, report([0]), ["what ?", "this"])
    alone = kept(report([0]), inputs=inputs, processor=Parts)
    assert drawn.tobytes() == captioned(alone, ["what ?", "this"]).tobytes()
    assert alone.getpixel((384 // 6, 256 // 4)) == (80, 80, 80)  # slot 0 is kept
    assert alone.getpixel((384 // 2, 256 // 4)) != (80, 80, 80)  # slot 1 is not


def test_pieces_stand_beside_each_other():
    inputs = {"pixel_values": torch.stack([torch.full((3, 20, 30), value) for value in (80.0, 160.0)])}
    drawn = kept_picture(Parts, inputs, report([0, 1]), [])
    pieces = [kept(report([n]), inputs=inputs, processor=Parts) for n in (0, 1)]
    whole = in_rows(pieces)
    assert (np.asarray(drawn)[: whole.height] == np.asarray(whole)).all()
    assert [piece.getpixel((64, 64)) for piece in pieces] == [(80,) * 3, (160,) * 3]
