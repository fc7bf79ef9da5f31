# SPDX-License-Identifier: Apache-2.0
"""Layouts of images that the tower encodes as tiles, packed into one row of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from .tokens import Layout


def tiled_layout(rows: Tensor, side: int, n_tiles: int, full_tiles: int) -> Layout:
    """Return the layout of a packed image: the tile of each token, newline tokens and the tiles' grids.

    A newline token belongs to the tile of the patch before it.

    Parameters
    ----------
    rows
        (N,) the patch of each token, counted from 1 across all tiles; 0 for a newline token.
    side
        Patches along a side of a tile.
    n_tiles, full_tiles
        Number of tiles of this image, and of the largest one.
    """
    is_newline = rows == 0
    nearest_patch = torch.where(is_newline, 0, torch.arange(len(rows))).cummax(0).values
    tile = ((rows - 1) // side**2)[nearest_patch]
    grids = []
    for number in range(n_tiles):
        patches = ((rows[(tile == number) & ~is_newline] - 1) % side**2).tolist()
        lines, columns = ({f(p, side) for p in patches} for f in (int.__floordiv__, int.__mod__))
        grids.append((len(lines), len(columns)))
    return Layout((1, 1, len(rows)), tile, is_newline, full_tiles, tuple(grids))
