# SPDX-License-Identifier: Apache-2.0
"""Small pictures of what was kept for the questions that the report shows, drawn while they are answered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenprune_visualize
from PIL import Image

from tokenprune import ImageReport, IncompatibleError
from tokenprune_cli.console.files import cannot_write, make_directory

SIDE = 132  # pixels of the longer side, about
COLORS = 64


def picture_path(folder: Path, key: str, number: int) -> Path:
    """Where the picture of one question under one setting is kept."""
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:12]}-{number}.png"


def save_kept(path: Path, report: ImageReport, inputs: Mapping[str, Any], processor: Any) -> None:
    """Draw what was kept of one image; nothing is drawn where tokens have no place on the picture."""
    try:
        whole = tokenprune_visualize.kept(report, inputs=inputs, processor=processor, cell=_cell(report))
    except IncompatibleError:
        return
    _save(whole, path)


def save_seen(path: Path, image: Image.Image, share: float) -> None:
    """Draw a picture of which nothing was dropped; `share` of its sides is what the model saw of them."""
    coarse = image.convert("RGB")
    if share < 1:
        size = (max(1, round(coarse.width * share)), max(1, round(coarse.height * share)))
        coarse = coarse.resize(size, Image.Resampling.BILINEAR)
    scale = SIDE / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    smooth = Image.Resampling.BICUBIC if share == 1 else Image.Resampling.NEAREST
    _save(coarse.resize(size, smooth), path)


def _cell(report: ImageReport) -> int:
    """Pixels of a patch."""
    return max(2, round(SIDE / max(1, *report.layout.grid[1:])) if report.layout.tiles is None else 3)


def _save(picture: Image.Image, path: Path) -> None:
    make_directory(path.parent)
    try:
        picture.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
    except OSError as error:
        raise cannot_write(path, error) from None
