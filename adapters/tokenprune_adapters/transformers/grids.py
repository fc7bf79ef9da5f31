# SPDX-License-Identifier: Apache-2.0
"""Layouts of an image's tokens, from the size of its picture or from their number."""

from __future__ import annotations

from collections.abc import Sequence

from tokenprune import Layout


def grid_of(size: Sequence[int], unit: int, n: int) -> Layout:
    """Grid of a picture of `size` (height, width) with one token per square of `unit` pixels.

    A single row of `n` tokens if the grid does not have `n` cells.
    """
    h, w = (int(side) // unit for side in size)
    return Layout((1, h, w) if h * w == n else (1, 1, n))


def square_of(n: int) -> Layout:
    """Square grid if `n` is a square number, as for towers with square inputs; otherwise one row."""
    side = round(n**0.5)
    return Layout((1, side, side) if side * side == n else (1, 1, n))
