# SPDX-License-Identifier: Apache-2.0
"""Map an image's tokens to pictures: one panel for each view, canvas of tiles or slice of a video."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune import IncompatibleError, Layout


@dataclass(frozen=True)
class Panel:
    """One picture of an image, with the `slots` (rows, columns) of its patches' tokens.

    It shows `tiles` (rows, columns) of the image's views, starting at index `first`. A canvas may lack the
    patches of padding, equally many at the top and bottom, or at the left and right.
    """

    slots: Tensor
    first: int = 0
    tiles: tuple[int, int] = (1, 1)


def panels(layout: Layout) -> list[Panel]:
    """Return the panels of an image: one for each slice of a video; with tiles, the base view and the canvas.

    Raises
    ------
    IncompatibleError
        When the layout has no positions: a single row of tokens, or newline tokens without tiles.
    """
    tiles, newlines = layout.tiles, layout.newlines
    if tiles is None:
        t, h, w = layout.grid
        if newlines is not None or t * h * w != len(layout) or h == 1 < w:
            raise IncompatibleError(
                f"the layout of these {len(layout)} tokens has no positions in the picture, so nothing can "
                "be drawn; the model's adapter must provide a grid (t, h, w) or tiles"
            )
        slots = torch.arange(len(layout)).view(t, h, w)
        return [Panel(frame, number) for number, frame in enumerate(slots)]
    tiles = tiles.cpu()
    newlines = torch.zeros(len(layout), dtype=torch.bool) if newlines is None else newlines.cpu()
    if not newlines.any():
        return [
            Panel((tiles == tile).nonzero().squeeze(1).view(grid), tile)
            for tile, grid in enumerate(layout.tile_grids)
        ]
    base = Panel(((tiles == 0) & ~newlines).nonzero().squeeze(1).view(layout.tile_grids[0]))
    return [base, _canvas(tiles, newlines, len(layout.tile_grids))] if bool((tiles > 0).any()) else [base]


def _canvas(tiles: Tensor, newlines: Tensor, n_tiles: int) -> Panel:
    """Return the panel of all tiles except the base view; its lines of patches end in newline tokens."""
    slots = (tiles > 0).nonzero().squeeze(1)
    ends = newlines[slots].nonzero().squeeze(1).tolist()
    starts = [0, *(end + 1 for end in ends[:-1])]
    lines = torch.stack([slots[start:end] for start, end in zip(starts, ends, strict=True)])
    columns = len(set(tiles[lines[0]].tolist()))
    return Panel(lines, 1, ((n_tiles - 1) // columns, columns))
