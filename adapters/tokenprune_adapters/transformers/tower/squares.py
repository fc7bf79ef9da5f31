# SPDX-License-Identifier: Apache-2.0
"""Square pictures, and the squares of their patches that become tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tokenprune import Layout, UnsupportedCallError
from tokenprune.towers.image import TowerImage

from ..grids import square_of


def squares(height: int, width: int, side: int) -> tuple[Tensor, Layout]:
    """The patches (N, side * side) of each square of a grid in raster order, and the layout of the squares.

    Raises
    ------
    UnsupportedCallError
        If the squares do not fill the grid.
    """
    if height % side or width % side:
        raise UnsupportedCallError(
            f"a picture of {height} x {width} patches has no whole number of squares of {side} x {side} "
            "patches, which become its tokens; give a picture of another size, or remove the pruning"
        )
    patches = torch.arange(height * width).view(height // side, side, width // side, side)
    return patches.transpose(1, 2).reshape(-1, side * side), Layout((1, height // side, width // side))


def square_images(shape: tuple[int, int], n_prefix: int, side: int = 1) -> list[TowerImage]:
    """The images of a tower over (B, M) rows, one in each sequence, with a token for each square of patches.

    Raises
    ------
    UnsupportedCallError
        If several patches become a token, and the picture is no square of whole squares.
    """
    n_images, n_rows = shape
    n = n_rows - n_prefix
    if side == 1:
        rows, layout = torch.arange(n)[:, None], square_of(n)
    else:
        width = math.isqrt(n)
        if width**2 != n:
            raise UnsupportedCallError(
                f"a picture of {n} patches is no square, as this model expects; give a square one, or "
                "remove the pruning"
            )
        rows, layout = squares(width, width, side)
    return [TowerImage(rows + n_prefix + number * n_rows, layout) for number in range(n_images)]
