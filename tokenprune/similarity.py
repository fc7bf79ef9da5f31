# SPDX-License-Identifier: Apache-2.0
"""Cosine similarity of tokens. B images, N tokens, D width."""

from __future__ import annotations

import torch
from torch import Tensor

GRAM_LIMIT = 8192  # tokens up to which all pairwise similarities are held at once (N^2 floats)


def unit_rows(features: Tensor) -> Tensor:
    """Scale rows (..., N, D) to unit length, in float32; a zero row stays zero."""
    rows: Tensor = torch.nn.functional.normalize(features.float(), dim=-1)
    return rows


def inside(counts: Tensor, n: int) -> Tensor:
    """Which of `n` slots are an image's own, (B,) -> (B, N)."""
    return torch.arange(n, device=counts.device) < counts.unsqueeze(-1)


class Similarity:
    """Cosine similarities of rows (B, N, D), a column at a time.

    Held as one (B, N, N) matrix up to `GRAM_LIMIT` tokens (one fast matrix product an image: an image's
    similarities do not depend on the others of its stack), beyond that, or where the `whole` matrix is not
    wanted, computed column by column.
    """

    @torch.no_grad()
    def __init__(self, features: Tensor, whole: bool = True) -> None:
        self.unit = unit_rows(features.detach())
        b, n, _ = self.unit.shape
        self.matrix: Tensor | None = None
        if whole and n <= GRAM_LIMIT:
            self.matrix = self.unit.new_empty(b, n, n)
            for rows, out in zip(self.unit, self.matrix, strict=True):
                torch.mm(rows, rows.mT, out=out)

    def column(self, slots: Tensor) -> Tensor:
        """Similarities of all tokens to one slot an image, (B,) -> (B, N)."""
        rows = torch.arange(len(slots), device=slots.device)
        if self.matrix is not None:
            return self.matrix[rows, slots]
        return (self.unit @ self.unit[rows, slots].unsqueeze(-1)).squeeze(-1)

    def most_isolated(self, counts: Tensor | None = None) -> Tensor:
        """Return the slot farthest from its nearest neighbour, (B,); of the first `counts` (B,) slots."""
        n = self.unit.shape[-2]
        padding = None if counts is None else ~inside(counts, n)
        nearest = []
        for start in range(0, n, GRAM_LIMIT):
            stop = min(n, start + GRAM_LIMIT)
            block = self.matrix if self.matrix is not None else self.unit[:, start:stop] @ self.unit.mT
            if padding is not None:
                block = block.masked_fill(padding.unsqueeze(1), -torch.inf)
            own = block[:, :, start:stop].diagonal(dim1=1, dim2=2)
            before = own.clone()
            own.fill_(-torch.inf)
            nearest.append(block.amax(-1))
            own.copy_(before)
        found = torch.cat(nearest, -1)
        return (found if padding is None else found.masked_fill(padding, torch.inf)).argmin(-1)
