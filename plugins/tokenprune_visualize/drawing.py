# SPDX-License-Identifier: Apache-2.0
"""Draw a picture with its grid of patches: dropped patches faded, or scores as colours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from tokenprune import IncompatibleError

from .sheets import Color, captioned

Picture: TypeAlias = "Image.Image | np.ndarray"  # an array is uint8, (H, W, 3)

BORDER: Color = (20, 20, 20)  # around kept patches
PAPER = 238  # what dropped patches fade to
FADE = 0.82  # fraction by which they fade
PICTURE_SIDE = 384  # pixels of the longer side when no cell size is given
COLORS: tuple[Color, ...] = ((45, 20, 95), (205, 60, 85), (255, 230, 120))  # lowest, middle, highest score
OPACITY = 0.65  # of the colours over the picture
BAR = 8  # height of the colour bar in pixels


def kept_picture(
    image: Picture, grid: tuple[int, int], kept: Iterable[int] | None, cell: int | None = None
) -> Image.Image:
    """Draw the kept patches of an image in colour with a thin border, and the others faded to grey.

    Parameters
    ----------
    image
        The image as the vision tower sees it (resized and cropped), a PIL image or uint8 (S, S, 3).
    grid
        Number of patches (rows, columns), one for each visual token.
    kept
        Slots of the kept tokens, in raster order; None if nothing was dropped: the image is drawn unchanged.
    cell
        Side of a patch in the picture, in pixels; by default the longer side is about 384 pixels.

    Raises
    ------
    IncompatibleError
        When a slot lies outside the grid.
    """
    rows, columns = grid
    slots = None if kept is None else sorted({int(slot) for slot in kept})
    outside = [slot for slot in slots or () if not 0 <= slot < rows * columns]
    if outside:
        raise IncompatibleError(f"slots {outside} lie outside a grid of {rows} x {columns} patches")
    side = cell or cell_side(grid)
    source = _on_grid(image, grid, side)
    if slots is None:
        return source
    picture = _faded(source)
    draw = ImageDraw.Draw(picture)
    for slot in slots:
        top, left = slot // columns * side, slot % columns * side
        box = (left, top, left + side, top + side)
        picture.paste(source.crop(box), box[:2])
        draw.rectangle((left, top, left + side - 1, top + side - 1), outline=BORDER)
    return picture


def score_picture(image: Picture, weights: Tensor, cell: int | None = None) -> Image.Image:
    """Draw scores as colours over the grey image: dark purple for 0, red in the middle, light yellow for 1.

    Parameters
    ----------
    image, cell
        As for `kept_picture`.
    weights
        (rows, columns), between 0 and 1; NaN for patches without a score, which are faded.
    """
    rows, columns = weights.shape
    side = cell or cell_side((rows, columns))
    source = _on_grid(image, (rows, columns), side)
    shades = np.asarray(source.convert("L"), np.float32)[..., None]
    values = weights.detach().float().cpu().numpy()
    large = values.repeat(side, 0).repeat(side, 1)
    blend = OPACITY * colors_of(np.nan_to_num(large)) + (1 - OPACITY) * shades
    drawn = np.where(np.isnan(large)[..., None], np.asarray(_faded(source), np.float32), blend)
    return Image.fromarray(drawn.round().astype(np.uint8))


def colors_of(weights: np.ndarray) -> np.ndarray:
    """Return the colours (..., 3) of weights between 0 and 1."""
    stops = np.linspace(0, 1, len(COLORS))
    return np.stack([np.interp(weights, stops, channel) for channel in zip(*COLORS, strict=True)], -1)


def with_bar(picture: Image.Image, values: Tensor) -> Image.Image:
    """Add a colour bar below a picture of scores, with the lowest and highest of `values`."""
    ramp = np.broadcast_to(np.linspace(0, 1, picture.width), (BAR, picture.width))
    bar = Image.fromarray(colors_of(ramp).round().astype(np.uint8))
    canvas = Image.new("RGB", (picture.width, picture.height + BAR))
    canvas.paste(picture, (0, 0))
    canvas.paste(bar, (0, picture.height))
    return captioned(canvas, [f"{values.min():.4g} ... {values.max():.4g}"])


def cell_side(grid: tuple[int, int]) -> int:
    """Return the side of a patch in pixels, in a picture of the default size."""
    return max(4, PICTURE_SIDE // max(grid))


def _on_grid(image: Picture, grid: tuple[int, int], side: int) -> Image.Image:
    """Convert the image to RGB, with patches of `side` x `side` pixels."""
    source = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image, np.uint8))
    return source.convert("RGB").resize((grid[1] * side, grid[0] * side), Image.Resampling.BICUBIC)


def _faded(source: Image.Image) -> Image.Image:
    """Fade the image to light grey, as dropped patches are drawn."""
    return source.convert("L").point(lambda value: round(value + (PAPER - value) * FADE)).convert("RGB")
