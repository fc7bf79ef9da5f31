# SPDX-License-Identifier: Apache-2.0
"""Pictures of all modes as RGB."""

import numpy as np
import pytest
from PIL import Image
from tokenprune_evaluation.images import as_rgb


def test_sixteen_bits_are_scaled_to_eight():
    ramp = np.array([[0, 257, 32896, 65535]], np.uint16)
    assert np.asarray(as_rgb(Image.fromarray(ramp)))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_are_pillows_business(mode):
    picture = Image.new("RGB", (3, 2), (255, 0, 0)).convert(mode)
    assert as_rgb(picture).tobytes() == picture.convert("RGB").tobytes()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_without_a_scale_are_refused(mode):
    with pytest.raises(ValueError, match=f"mode '{mode}' has no scale; store it with 8 or 16 bits"):
        as_rgb(Image.new(mode, (3, 2)))
