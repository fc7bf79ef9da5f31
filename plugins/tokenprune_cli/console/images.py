# SPDX-License-Identifier: Apache-2.0
"""Opening and saving pictures the user names."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from tokenprune_cli.console.failures import BadInputError, first_line
from tokenprune_cli.console.files import check_folder
from tokenprune_cli.rgb import UNREADABLE, as_rgb


def open_image(path: Path) -> Image.Image:
    """Read an image file, the right way up, in RGB."""
    if not os.path.exists(path):  # which, unlike Path's, takes a name of any length
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


def check_writable(path: Path, endings: Collection[str] | None = None) -> None:
    """Refuse a picture file that could not be written, before any work is done.

    Parameters
    ----------
    endings
        Of the formats that can be written, such as ".png"; None: Pillow's.
    """
    known = Image.registered_extensions() if endings is None else endings
    if path.suffix.lower() not in known:
        raise BadInputError(f"'{path}' has no ending of a picture format; use for example .png")
    check_folder(path)


def save_image(picture: Image.Image, path: Path) -> None:
    """Write a picture."""
    try:
        picture.save(path)
    except (OSError, ValueError) as error:
        raise BadInputError(f"the picture '{path}' cannot be written: {first_line(error)}") from None
