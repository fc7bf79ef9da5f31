# SPDX-License-Identifier: Apache-2.0
"""Where an image's tokens lie on its pictures: one panel a view, a canvas of tiles or a slice of a video."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune import IncompatibleError, Layout


@dataclass(frozen=True)
class Panel:
    """One picture of an image: `slots` (rows, columns) of the tokens that stand for its patches.

    It shows `tiles` (rows, columns) of the image's views, from number `first` on; a canvas may have lost
    patches to the padding of the picture, as many at the top as at the bottom, or left as right.
    """

    slots: Tensor
    first: int = 0
    tiles: tuple[int, int] = (1, 1)


def panels(layout: Layout) -> list[Panel]:
    """Pictures of an image: one for each slice of a video; with tiles the base view, then their canvas.

    Raises
    ------
    IncompatibleError
        When the layout does not say where the tokens lie: a single row of them, or newlines without tiles.
    """
    tiles, newlines = layout.tiles, layout.newlines
    if tiles is None:
        t, h, w = layout.grid
        if newlines is not None or t * h * w != len(layout) or h == 1 < w:
            raise IncompatibleError(
                f"the layout of these {len(layout)} tokens does not say where on the picture they lie, so "
                "that nothing can be drawn; the model's adapter would have to give a grid (t, h, w) or tiles"
            )
        slots = torch.arange(len(layout)).view(t, h, w)
        return [Panel(frame, number) for number, frame in enumerate(slots)]
    tiles = tiles.cpu()
    newlines = torch.zeros(len(layout), dtype=torch.bool) if newlines is None else newlines.cpu()
    if not newlines.any():
        found = [(tiles == tile).nonzero().squeeze(1) for tile in range(len(layout.tile_grids))]
        return [
            Panel(slots.view(grid), tile)
            for tile, (slots, grid) in enumerate(zip(found, layout.tile_grids, strict=True))
        ]
    base = Panel(((tiles == 0) & ~newlines).nonzero().squeeze(1).view(layout.tile_grids[0]))
    return [base, _canvas(tiles, newlines, len(layout.tile_grids))] if bool((tiles > 0).any()) else [base]


def _canvas(tiles: Tensor, newlines: Tensor, n_tiles: int) -> Panel:
    """The tiles but the base view, laid out: each line of patches ends in a newline token."""
    slots = (tiles > 0).nonzero().squeeze(1)
    ends = newlines[slots].nonzero().squeeze(1).tolist()
    starts = [0, *(end + 1 for end in ends[:-1])]
    lines = torch.stack([slots[start:end] for start, end in zip(starts, ends, strict=True)])
    columns = len(set(tiles[lines[0]].tolist()))
    return Panel(lines, 1, ((n_tiles - 1) // columns, columns))
