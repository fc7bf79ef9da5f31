# SPDX-License-Identifier: Apache-2.0
"""Average-pool the token grid to the budget: a baseline that drops no token but blurs all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune


@dataclass(frozen=True)
class PoolReducer(tokenprune.Reducer):
    """Replaces all rows by the means of `keep` cells of the grid, in raster order; ignores the selection.

    Video frames are stacked vertically. Tokens that do not form a grid are treated as a single line.
    """

    name: ClassVar[str] = "pool"

    def n_selected(self, keep: int, n: int) -> int:
        """Return `keep`: the reducer uses all rows, whatever is selected."""
        return keep

    def reduce(
        self, tokens: tokenprune.VisualTokens, selection: tokenprune.Selection, keep: int
    ) -> tokenprune.Selection:
        """Return the cell means."""
        t, h, w = tokens.layout.grid
        n_lines = t * h if t * h * w == len(tokens) else 1
        grid = tokens.features.reshape(n_lines, -1, tokens.features.shape[-1])
        means = pooled(grid, keep).to(tokens.features.dtype)
        return tokenprune.Selection(torch.full_like(selection.indices, -1), features=means)


def n_bands(h: int, w: int, n_cells: int) -> int:
    """Return into how many bands of lines to cut a grid, so that `n_cells` cells are about square."""
    square = round(math.sqrt(n_cells * h / w))
    return min(max(square, -(-n_cells // w), 1), h, n_cells)


def pooled(grid: Tensor, n_cells: int) -> Tensor:
    """Return means (n_cells, D) of the cells of a grid (h, w, D), in float32: bands of lines, cut into cells.

    Bands and cells have the bounds of adaptive average pooling; with n_cells = a b, where a divides h and b
    divides w, this is plain average pooling. If cells do not divide evenly among the bands, they are spread
    over them.
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
    """Return the reducer class."""
    return [PoolReducer]


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the baseline."""
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
