# SPDX-License-Identifier: Apache-2.0
"""Draw signs: light or dark panels with a two-digit number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIGN_HEIGHT, SIGN_WIDTH = 18, 24
DIGIT_HEIGHT, DIGIT_WIDTH = 14, 10
_FONT = (  # 5 x 7 dots per digit, drawn at twice the size
    "01110 10001 10011 10101 11001 10001 01110",
    "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00110 01000 10000 11111",
    "11110 00001 00001 01110 00001 00001 11110",
    "00010 00110 01010 10010 11111 00010 00010",
    "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110",
    "11111 00001 00010 00100 01000 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110",
    "01110 10001 10001 01111 00001 00010 01100",
)
_GLYPHS = tuple(
    np.kron([[int(dot) for dot in row] for row in rows.split()], np.ones((2, 2))).astype(np.float32)
    for rows in _FONT
)


@dataclass(frozen=True)
class Sign:
    """A panel with a number from 10 to 99; `top` and `left` are its corner, in pixels."""

    number: int
    is_light: bool
    top: int
    left: int

    @property
    def tone(self) -> str:
        """Name of the panel's brightness in questions."""
        return "light" if self.is_light else "dark"

    def digit_corners(self) -> tuple[tuple[int, int, int], ...]:
        """(digit, top, left) of the tens and of the units, in pixels."""
        top = self.top + 2
        return (self.number // 10, top, self.left + 1), (self.number % 10, top, self.left + 13)


def paint_sign(rng: np.random.Generator, image: np.ndarray, sign: Sign) -> None:
    """Paint a sign into a float image (S, S, 3), in place."""
    bright, dim = rng.uniform(215, 250), rng.uniform(5, 40)
    panel, ink = (bright, dim) if sign.is_light else (dim, bright)
    image[sign.top : sign.top + SIGN_HEIGHT, sign.left : sign.left + SIGN_WIDTH] = panel
    for digit, top, left in sign.digit_corners():
        spot = image[top : top + DIGIT_HEIGHT, left : left + DIGIT_WIDTH]
        spot += (ink - spot) * _GLYPHS[digit][..., None]
