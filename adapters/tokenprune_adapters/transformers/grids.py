# SPDX-License-Identifier: Apache-2.0
"""Where an image's tokens lie, by the size of its picture or by their number alone."""

from __future__ import annotations

from collections.abc import Sequence

from tokenprune import Layout


def grid_of(size: Sequence[int], unit: int, n: int) -> Layout:
    """Rows and columns of a picture of this (height, width), a token for each square of `unit` pixels.

    One row of `n` tokens where their number is another: then the picture was not divided in this way.
    """
    h, w = (int(side) // unit for side in size)
    return Layout((1, h, w) if h * w == n else (1, 1, n))


def square_of(n: int) -> Layout:
    """A square grid where N is a square, as with towers for square pictures; else one row."""
    side = round(n**0.5)
    return Layout((1, side, side) if side * side == n else (1, 1, n))
