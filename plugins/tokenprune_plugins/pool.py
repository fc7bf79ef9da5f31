# SPDX-License-Identifier: Apache-2.0
"""Average pooling of the token grid to the budget: a baseline that drops nothing and blurs everything."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune


@dataclass(frozen=True)
class PoolReducer(tokenprune.Reducer):
    """Replaces all rows by means of `keep` cells of the grid, in raster order; what was chosen is ignored.

    Frames of a video stand below each other. Tokens that fill no grid count as one line.
    """

    name: ClassVar[str] = "pool"

    def n_selected(self, keep: int, n: int) -> int:
        """All of them: nothing is left to choose for the reducer."""
        return keep

    def reduce(
        self, tokens: tokenprune.VisualTokens, selection: tokenprune.Selection, keep: int
    ) -> tokenprune.Selection:
        """Return the means."""
        t, h, w = tokens.layout.grid
        n_lines = t * h if t * h * w == len(tokens) else 1
        grid = tokens.features.reshape(n_lines, -1, tokens.features.shape[-1])
        means = pooled(grid, keep).to(tokens.features.dtype)
        return tokenprune.Selection(torch.full_like(selection.indices, -1), features=means)


def n_bands(h: int, w: int, n_cells: int) -> int:
    """Into how many bands of lines a grid is cut, so that `n_cells` cells are about as wide as high."""
    square = round(math.sqrt(n_cells * h / w))
    return min(max(square, -(-n_cells // w), 1), h, n_cells)


def pooled(grid: Tensor, n_cells: int) -> Tensor:
    """Means (n_cells, D) of cells of a grid (h, w, D), in float32: bands of lines, each cut into its cells.

    Bands and cells are bounded as in adaptive average pooling; with n_cells = a b, a and b dividing h and w,
    this is plain average pooling. Cells that do not divide evenly among the bands are spread over them.
    """
    h, w, _ = grid.shape
    bands, rows = n_bands(h, w, n_cells), []
    for i in range(bands):
        lines = grid[i * h // bands : -(-(i + 1) * h // bands)].float().mean(0)  # (w, D)
        n = (i + 1) * n_cells // bands - i * n_cells // bands
        rows.append(torch.nn.functional.adaptive_avg_pool1d(lines.mT, n).mT)
    return torch.cat(rows)


@tokenprune.hookimpl
def tokenprune_reducers() -> list[type[tokenprune.Reducer]]:
    """Deliver the reducer."""
    return [PoolReducer]


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Deliver the baseline."""
    return [
        tokenprune.Method(
            name="pool",
            title="average pooling of the token grid",
            scorer="uniform",
            selector="topk",
            reducer="pool",
            scope="tile",
            newlines="drop",
            paper="baseline",
        )
    ]
