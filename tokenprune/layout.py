# SPDX-License-Identifier: Apache-2.0
"""Where the visual tokens of an image lie in it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Positions of an image's tokens in the image.

    `grid` is (t, h, w); `tiles` (N,) the tile of each token (None: a single tile); `newlines` (N,) is True
    for separator tokens, which are not patches (None: there are none); `full_tiles` is the largest number of
    tiles of the model's images; `tile_grids` are (h, w) of each tile's patches, in raster order (empty:
    unknown).
    """

    grid: tuple[int, int, int]
    tiles: Tensor | None = None
    newlines: Tensor | None = None
    full_tiles: int = 1
    tile_grids: tuple[tuple[int, int], ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether this is a single grid of patches: no tiles, no separators, no frames."""
        return self.tiles is None and self.newlines is None and self.grid[0] == 1

    def of_tile(self, tile: int | None, n: int) -> Layout:
        """Return the layout of `n` tokens of a tile: the tile's grid if they fill it, else a single row."""
        h, w = self.tile_grids[tile] if tile is not None and tile < len(self.tile_grids) else (1, n)
        return Layout((1, h, w) if h * w == n else (1, 1, n))

    def among(self, slots: Tensor) -> Layout:
        """Return the layout of some tokens (n,) of the image, a single row; tiles and newlines are kept.

        So are the grids of the tiles if all their patches are among the tokens.
        """
        tiles, newlines = (
            None if per_token is None else per_token[slots.to(per_token.device)]
            for per_token in (self.tiles, self.newlines)
        )
        some = Layout((1, 1, len(slots)), tiles, newlines, self.full_tiles)
        return dataclasses.replace(some, tile_grids=self.tile_grids) if some._fills(self.tile_grids) else some

    def _fills(self, grids: tuple[tuple[int, int], ...]) -> bool:
        """Whether each tile has as many patches as its grid has cells."""
        if self.tiles is None or not grids:
            return False
        of_patch = self.tiles if self.newlines is None else self.tiles[~self.newlines]
        return of_patch.bincount(minlength=len(grids)).tolist() == [h * w for h, w in grids]

    def __len__(self) -> int:
        for per_token in (self.tiles, self.newlines):
            if per_token is not None:
                return len(per_token)
        t, h, w = self.grid
        return t * h * w

    def __repr__(self) -> str:
        tiles = "" if self.tiles is None else f", {len(self.tile_grids) or 'some'} tiles of {self.full_tiles}"
        newlines = "" if self.newlines is None else f", {int(self.newlines.sum())} newlines"
        return f"Layout({self.grid}{tiles}{newlines})"
