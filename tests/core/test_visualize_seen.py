# SPDX-License-Identifier: Apache-2.0
"""Pixels turned back into pictures by hand: what an image processor did, and rows with fewer pieces."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenprune_visualize import seen_image, seen_pictures

from tokenprune import ImageReport, IncompatibleError, Layout

MEAN, DEVIATION = [0.5, 0.25, 0.0], [0.5, 1.0, 2.0]


def pictures(n):
    """Pictures (n, 3, 2, 2) of whole numbers from 0 to 255."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, 2, 2), generator=draw).float()


def processed(values, do_rescale, do_normalize):
    """What an image processor makes of pictures, and the processor."""
    if do_rescale:
        values = values / 255
    if do_normalize:
        mean, deviation = (torch.tensor(each)[:, None, None] for each in (MEAN, DEVIATION))
        values = (values - mean) / deviation
    settings = {"do_rescale": do_rescale, "do_normalize": do_normalize, "rescale_factor": 1 / 255}
    if do_normalize:
        settings |= {"image_mean": MEAN, "image_std": DEVIATION}
    return values, SimpleNamespace(**settings)


@pytest.mark.parametrize("do_normalize", [True, False])
@pytest.mark.parametrize("do_rescale", [True, False])
def test_what_the_processor_did_is_undone_and_nothing_else(do_rescale, do_normalize):
    (original,) = pictures(1)
    (values,), maker = processed(original[None], do_rescale, do_normalize)
    drawn = np.asarray(seen_image(maker, values))
    assert drawn.tolist() == original.permute(1, 2, 0).int().tolist()


def test_numbers_below_and_above_those_of_pictures_are_cut_off():
    maker = SimpleNamespace(do_rescale=False, do_normalize=False)
    values = torch.tensor([-3.0, 254.6, 300.0, 7.4]).view(1, 2, 2).expand(3, 2, 2)
    assert np.asarray(seen_image(maker, values))[..., 0].tolist() == [[0, 255], [255, 7]]


def test_pictures_of_a_batch_in_rows_of_pieces_are_counted_without_the_filling():
    """Idefics3's rows: the first has one picture and zeros, the second two."""
    original = pictures(3)
    values, maker = processed(original, True, True)
    rows = torch.zeros(2, 2, 3, 2, 2)
    rows[0, 0], rows[1, 0], rows[1, 1] = values
    for number in range(3):
        image = ImageReport(0, Layout((1, 2, 2)), 4, 4, number=number)
        (drawn,) = seen_pictures(image, {"pixel_values": rows}, SimpleNamespace(image_processor=maker))
        assert np.asarray(drawn).tolist() == original[number].permute(1, 2, 0).int().tolist()
    image = ImageReport(0, Layout((1, 2, 2)), 4, 4, number=3)
    with pytest.raises(IncompatibleError, match="contain 3 image"):
        seen_pictures(image, {"pixel_values": rows}, SimpleNamespace(image_processor=maker))


@pytest.mark.parametrize("shape", [(3,), (3, 2, 2), (1, 1, 1, 3, 2, 2)])
def test_pixels_of_another_shape_are_no_pictures(shape):
    image = ImageReport(0, Layout((1, 2, 2)), 4, 4)
    with pytest.raises(IncompatibleError, match=rf"shape \({shape[0]}"):
        seen_pictures(image, {"pixel_values": torch.zeros(shape)}, SimpleNamespace())
