# SPDX-License-Identifier: Apache-2.0
"""Add captions to pictures, and arrange pictures on sheets."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

BACKGROUND: Color = (255, 255, 255)
INK: Color = (30, 30, 30)
GAP = 8  # pixels between the pictures of a sheet
LINE = 1.35  # line height over font size


def captioned(picture: Image.Image, lines: Sequence[str], size: int = 14) -> Image.Image:
    """Add lines of text below a picture; long lines are wrapped."""
    font = ImageFont.load_default(size)
    wrapped = [part for line in lines for part in _wrap(line, font, picture.width)]
    height = round(size * LINE)
    canvas = Image.new("RGB", (picture.width, picture.height + height * len(wrapped) + size // 3), BACKGROUND)
    canvas.paste(picture, (0, 0))
    _write(canvas, wrapped, (0, picture.height + size // 4), font, height)
    return canvas


def sheet(
    rows: Sequence[Sequence[Image.Image]],
    column_titles: Sequence[str] = (),
    size: int = 14,
) -> Image.Image:
    """Arrange pictures in rows and columns, with a title above each column.

    Raises
    ------
    ValueError
        When there is no picture, or rows differ in length.
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
    canvas = Image.new("RGB", total, BACKGROUND)
    lefts = [GAP + sum(widths[:i]) + GAP * i for i in range(len(widths))]
    for left, title in zip(lefts, titles, strict=False):
        _write(canvas, title, (left, GAP // 2), font, line)
    top = head + GAP
    for row, height in zip(rows, heights, strict=True):
        for left, picture in zip(lefts, row, strict=True):
            canvas.paste(picture, (left, top))
        top += height + GAP
    return canvas


def in_rows(pictures: Sequence[Image.Image], columns: int = 4) -> Image.Image:
    """Arrange pictures from left to right, with `columns` per row.

    Raises
    ------
    ValueError
        When there is no picture.
    """
    width = min(columns, len(pictures))
    blanks = [Image.new("RGB", (1, 1), BACKGROUND)] * (-len(pictures) % max(1, width))
    filled = [*pictures, *blanks]
    return sheet([filled[i : i + width] for i in range(0, len(pictures), max(1, width))])


def _write(
    canvas: Image.Image,
    lines: Sequence[str],
    position: tuple[int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    height: int,
) -> None:
    """Write lines of text, of this height, from a position (left, top) on."""
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(lines):
        draw.text((position[0], position[1] + i * height), line, fill=INK, font=font)


def _wrap(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Wrap a line at spaces to fit the width; words are never broken."""
    parts: list[str] = []
    for word in line.split():
        longer = f"{parts[-1]} {word}" if parts else word
        if parts and font.getlength(longer) <= width:
            parts[-1] = longer
        else:
            parts.append(word)
    return parts or [""]
