# SPDX-License-Identifier: Apache-2.0
"""Pictures of what was kept: the image with its dropped patches faded, captions, and sheets of several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

BACKGROUND: Color = (255, 255, 255)
INK: Color = (30, 30, 30)
BORDER: Color = (20, 20, 20)  # around kept patches
PAPER = 238  # what dropped patches fade to
FADE = 0.82  # how far they fade
PICTURE_SIDE = 384  # pixels of the longer side when no cell size is given
GAP = 8  # pixels between the pictures of a sheet
LINE = 1.35  # line height over font size


def kept_picture(
    image: Image.Image | np.ndarray,
    grid: tuple[int, int],
    kept: Iterable[int] | None,
    cell: int | None = None,
) -> Image.Image:
    """Show which patches of an image were kept: these clear with a thin border, the others faded to grey.

    Parameters
    ----------
    image
        The image as the vision tower sees it (resized and cropped), a PIL image or uint8 (S, S, 3).
    grid
        Patches (rows, columns) that the visual tokens stand for.
    kept
        Slots of the kept tokens, row by row; None: nothing was dropped, the image is shown as it is.
    cell
        Side of a patch in the picture, in pixels; by default the longer side is about 384 pixels.

    Raises
    ------
    ValueError
        When a slot lies outside the grid.
    """
    rows, columns = grid
    slots = None if kept is None else sorted({int(slot) for slot in kept})
    outside = [slot for slot in slots or () if not 0 <= slot < rows * columns]
    if outside:
        raise ValueError(f"slots {outside} lie outside a grid of {rows} x {columns} patches")
    side = cell or max(4, PICTURE_SIDE // max(rows, columns))
    source = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image, np.uint8))
    source = source.convert("RGB").resize((columns * side, rows * side), Image.Resampling.BICUBIC)
    if slots is None:
        return source
    grey = source.convert("L").point(lambda value: round(value + (PAPER - value) * FADE))
    picture = grey.convert("RGB")
    draw = ImageDraw.Draw(picture)
    for slot in slots:
        top, left = slot // columns * side, slot % columns * side
        box = (left, top, left + side, top + side)
        picture.paste(source.crop(box), box[:2])
        draw.rectangle((left, top, left + side - 1, top + side - 1), outline=BORDER)
    return picture


def captioned(picture: Image.Image, lines: Sequence[str], size: int = 14) -> Image.Image:
    """Put lines of text under a picture; a line that is too long goes on in the next one."""
    font = ImageFont.load_default(size)
    wrapped = [part for line in lines for part in _wrap(line, font, picture.width)]
    height = round(size * LINE)
    whole = Image.new("RGB", (picture.width, picture.height + height * len(wrapped) + size // 3), BACKGROUND)
    whole.paste(picture, (0, 0))
    _write(whole, wrapped, (0, picture.height + size // 4), font, height)
    return whole


def sheet(
    rows: Sequence[Sequence[Image.Image]],
    column_titles: Sequence[str] = (),
    size: int = 14,
) -> Image.Image:
    """Lay pictures out in rows and columns, each column under its title.

    Raises
    ------
    ValueError
        When there is no picture, or when rows differ in length.
    """
    if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError("a sheet needs at least one picture and rows of equal length")
    font = ImageFont.load_default(size)
    widths = [max(row[i].width for row in rows) for i in range(len(rows[0]))]
    heights = [max(picture.height for picture in row) for row in rows]
    titles = [_wrap(title, font, width) for title, width in zip(column_titles, widths, strict=False)]
    line = round(size * LINE)
    head = line * max((len(title) for title in titles), default=0)
    total = (sum(widths) + GAP * (len(widths) + 1), head + sum(heights) + GAP * (len(heights) + 1))
    whole = Image.new("RGB", total, BACKGROUND)
    lefts = [GAP + sum(widths[:i]) + GAP * i for i in range(len(widths))]
    for left, title in zip(lefts, titles, strict=False):
        _write(whole, title, (left, GAP // 2), font, line)
    top = head + GAP
    for row, height in zip(rows, heights, strict=True):
        for left, picture in zip(lefts, row, strict=True):
            whole.paste(picture, (left, top))
        top += height + GAP
    return whole


def _write(
    on: Image.Image,
    lines: Sequence[str],
    at: tuple[int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    height: int,
) -> None:
    draw = ImageDraw.Draw(on)
    for i, line in enumerate(lines):
        draw.text((at[0], at[1] + i * height), line, fill=INK, font=font)


def _wrap(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Break a line at spaces so that each part fits the width; a single word is never broken."""
    parts: list[str] = []
    for word in line.split():
        longer = f"{parts[-1]} {word}" if parts else word
        if parts and font.getlength(longer) <= width:
            parts[-1] = longer
        else:
            parts.append(word)
    return parts or [""]
