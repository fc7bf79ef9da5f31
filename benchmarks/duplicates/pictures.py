# SPDX-License-Identifier: Apache-2.0
"""Pictures to count duplicates in: a page of text and a screen, drawn here, and a photograph."""

from __future__ import annotations

import io
import random
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

WORDS = (
    "a an and are as at budget by cost each every few for from image in is it keeps language layer less long "
    "many model more most of on one only other page picture reader row rows same second shorter small than "
    "that the their then they this time to token tokens tower two vision what when which white with word"
).split()
INK, RULE, PAPER = "black", "gray", "white"
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def page(width: int = 1190, height: int = 1684, seed: int = 0) -> Image.Image:
    """Draw a page of text as a scanner at 144 dpi sees A4: a title, paragraphs, a table and a page number."""
    draw_word = random.Random(seed)
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    margin, table_height = width // 11, height // 6
    draw.text((margin, margin), "Notes on shorter rows", fill=INK, font=ImageFont.load_default(36))
    y, body, bottom = margin + 90, ImageFont.load_default(19), height - margin - table_height
    while y < bottom - 160:
        for _ in range(draw_word.randint(3, 7)):
            line = draw_word.choice(WORDS).capitalize()
            while draw.textlength(line, font=body) < width - 2 * margin - 110:
                line += f" {draw_word.choice(WORDS)}"
            draw.text((margin, y), line, fill=INK, font=body)
            y += 28
        y += 26
    _table(draw, (margin, y, width - margin, y + table_height), body, draw_word)
    draw.text((width // 2, height - margin // 2), "17", fill=INK, font=body)
    return picture


def _table(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    font: Font,
    numbers: random.Random,
) -> None:
    """Draw a ruled table of five columns and six lines."""
    left, top, right, bottom = box
    for line in range(7):
        y = top + line * (bottom - top) // 6
        draw.line((left, y, right, y), fill=RULE)
        for column in range(5 if line < 6 else 0):
            x = left + column * (right - left) // 5
            word = numbers.choice(WORDS) if column == 0 or line == 0 else f"{numbers.uniform(0, 100):.1f}"
            draw.text((x + 12, y + 10), word, fill=INK, font=font)


def screen(width: int = 1288, height: int = 812, seed: int = 0) -> Image.Image:
    """Draw a window of a mail program: a menu, folders, messages with round pictures, and a shaded button."""
    words = random.Random(seed)
    picture = Image.new("RGB", (width, height), "#f3f4f6")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    draw.rectangle((0, 0, width, 43), fill="#20262e")
    draw.text((18, 13), "File    Edit    View    Message    Help", fill=PAPER, font=font)
    draw.rectangle((0, 44, 229, height), fill=PAPER, outline="#d7dae0")
    for number, name in enumerate(("Inbox", "Marked", "Sent", "Drafts", "Archive", "Junk", "Bin")):
        draw.text((26, 66 + 38 * number), name, fill="#3b4048", font=font)
    for top in range(60, height - 150, 80):
        draw.rounded_rectangle((248, top, width - 24, top + 68), 6, fill=PAPER, outline="#d7dae0")
        colour = tuple(words.randint(40, 200) for _ in "rgb")
        draw.ellipse((264, top + 14, 304, top + 54), fill=colour)
        draw.text((320, top + 12), " ".join(words.choices(WORDS, k=4)).capitalize(), fill=INK, font=font)
        draw.text((320, top + 38), " ".join(words.choices(WORDS, k=9)), fill="#7a808a", font=font)
    for x in range(280):  # a shade from left to right, of which no two tokens are equal
        shade = (40 + x // 2, 90, 170)
        draw.line((width - 304 + x, height - 64, width - 304 + x, height - 24), fill=shade)
    return picture


def photograph() -> Image.Image:
    """Return the portrait of Grace Hopper that comes with matplotlib."""
    with Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg") as file:
        picture: Image.Image = file.convert("RGB")
    return picture


def compressed(picture: Image.Image, quality: int = 90) -> Image.Image:
    """Return a picture as it comes back from a JPEG file."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    with Image.open(file) as read:
        result: Image.Image = read.convert("RGB")
    return result


def pictures() -> dict[str, Image.Image]:
    """Return all pictures by name."""
    drawn = {"page": page(), "screen": screen()}
    return (
        drawn
        | {f"{name}, JPEG 90": compressed(each) for name, each in drawn.items()}
        | {"photograph": photograph()}
    )
