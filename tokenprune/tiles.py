# SPDX-License-Identifier: Apache-2.0
"""Pictures that are shown to the tower as several tiles and packed into one row of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from .tokens import Layout


def tiled_layout(rows: Tensor, side: int, n_tiles: int, full_tiles: int) -> Layout:
    """Layout of a packed picture: tile of each token (newlines belong to the one before them) and grids.

    Parameters
    ----------
    rows
        (N,) for each token the patch it shows, counted from 1 through all tiles; 0: a newline token.
    side
        Patches along a side of a tile.
    n_tiles, full_tiles
        Tiles of this picture, and of the largest one.
    """
    is_newline = rows == 0
    nearest_patch = torch.where(is_newline, 0, torch.arange(len(rows))).cummax(0).values
    tile = ((rows - 1) // side**2)[nearest_patch]
    grids = []
    for one in range(n_tiles):
        patches = ((rows[(tile == one) & ~is_newline] - 1) % side**2).tolist()
        lines, columns = ({f(p, side) for p in patches} for f in (int.__floordiv__, int.__mod__))
        grids.append((len(lines), len(columns)))
    return Layout((1, 1, len(rows)), tile, is_newline, full_tiles, tuple(grids))
