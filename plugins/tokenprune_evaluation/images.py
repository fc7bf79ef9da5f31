# SPDX-License-Identifier: Apache-2.0
"""Opening and saving the images that the user names."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tokenprune_adapters.loading import first_line

from tokenprune_evaluation.errors import BadInputError
from tokenprune_evaluation.files import check_folder

# raised by Pillow and `as_rgb` for files that are damaged, too large or not images
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def open_image(path: Path) -> Image.Image:
    """Read an image file in its upright orientation, as RGB."""
    if not os.path.exists(path):  # unlike Path.exists, this accepts names of any length
        raise BadInputError(f"the image file '{path}' does not exist")
    if os.path.isdir(path):
        raise BadInputError(f"'{path}' is a directory; --image takes an image file")
    try:
        with Image.open(path) as image:
            return as_rgb(image)
    except UnidentifiedImageError:
        raise BadInputError(f"'{path}' is not an image that can be read") from None
    except UNREADABLE as error:
        raise BadInputError(f"the image '{path}' cannot be read: {first_line(error)}") from None


def as_rgb(image: Image.Image) -> Image.Image:
    """Apply the orientation that the camera stored, and convert to RGB; 16-bit values are scaled to 8 bits.

    Raises
    ------
    ValueError
        For values without a scale (32-bit integers and floats).
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode!r} has no scale; store it with 8 or 16 bits per value")
    return image.convert("RGB")


def check_writable(path: Path, extensions: Collection[str] | None = None) -> None:
    """Raise an error if an image file cannot be written, before any work is done.

    Parameters
    ----------
    extensions
        Those of the formats that can be written, such as ".png"; None: those of Pillow.
    """
    known = Image.registered_extensions() if extensions is None else extensions
    if path.suffix.lower() not in known:
        raise BadInputError(f"'{path}' has no image file extension; use .png, for example")
    check_folder(path)


def save_image(image: Image.Image, path: Path) -> None:
    """Write an image file."""
    try:
        image.save(path)
    except (OSError, ValueError) as error:
        raise BadInputError(f"the image '{path}' cannot be written: {first_line(error)}") from None
