# SPDX-License-Identifier: Apache-2.0
"""Pictures of any kind as RGB, the right way up."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

# what Pillow and `as_rgb` raise of a file that is damaged, too large, or no picture
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def as_rgb(picture: Image.Image) -> Image.Image:
    """Turn a picture as its camera says, and make it RGB; 16 bits a value are scaled to 8.

    Raises
    ------
    ValueError
        Where values have no scale (whole numbers of 32 bits, and floats).
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) // 257).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError(f"mode {picture.mode!r} has no scale; store it with 8 or 16 bits a value")
    return picture.convert("RGB")
