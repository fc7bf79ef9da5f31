# SPDX-License-Identifier: Apache-2.0
"""Draw small pictures of what was kept, for the example questions of reports."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenprune_visualize
from PIL import Image

from tokenprune import ImageReport, IncompatibleError
from tokenprune_evaluation.files import cannot_write, make_directory

SIDE = 132  # approximate length of the longer side, in pixels
COLORS = 64


def picture_path(folder: Path, key: str, number: int) -> Path:
    """Return the path of the picture of question `number` under a setting, by the setting's key."""
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:12]}-{number}.png"


def draw_kept(
    report: ImageReport, inputs: Mapping[str, Any], processor: Any, side: int = SIDE
) -> Image.Image | None:
    """Draw what was kept of an image in few colours; None if its tokens have no place in the picture.

    Parameters
    ----------
    side
        Approximate length of the longer side in pixels; tiles are drawn at three pixels a token.
    """
    cell = max(2, round(side / max(1, *report.layout.grid[1:])) if report.layout.tiles is None else 3)
    try:
        return _few_colors(tokenprune_visualize.kept(report, inputs=inputs, processor=processor, cell=cell))
    except IncompatibleError:
        return None


def save_kept(path: Path, report: ImageReport, inputs: Mapping[str, Any], processor: Any) -> None:
    """Save a picture of what was kept of an image, unless its tokens have no place in the picture."""
    picture = draw_kept(report, inputs, processor)
    if picture is not None:
        _save(picture, path)


def save_seen(path: Path, image: Image.Image, share: float) -> None:
    """Draw a picture without pruning; the model saw it with its sides scaled by `share`."""
    coarse = image.convert("RGB")
    if share < 1:
        size = (max(1, round(coarse.width * share)), max(1, round(coarse.height * share)))
        coarse = coarse.resize(size, Image.Resampling.BILINEAR)
    scale = SIDE / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    smooth = Image.Resampling.BICUBIC if share == 1 else Image.Resampling.NEAREST
    _save(_few_colors(coarse.resize(size, smooth)), path)


def _few_colors(picture: Image.Image) -> Image.Image:
    return picture.quantize(COLORS, dither=Image.Dither.NONE)


def _save(picture: Image.Image, path: Path) -> None:
    make_directory(path.parent)
    try:
        picture.save(path, optimize=True)
    except OSError as error:
        raise cannot_write(path, error) from None
