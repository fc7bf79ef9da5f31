# SPDX-License-Identifier: Apache-2.0
"""Cosine similarity of tokens. B images, N tokens, D width."""

from __future__ import annotations

import torch
from torch import Tensor

GRAM_LIMIT = 8192  # number of tokens up to which the full similarity matrix (N^2 floats) is computed


def unit_rows(features: Tensor) -> Tensor:
    """Scale rows (..., N, D) to unit length, in float32; a zero row stays zero."""
    rows: Tensor = torch.nn.functional.normalize(features.float(), dim=-1)
    return rows


def inside(counts: Tensor, n: int) -> Tensor:
    """Return a mask of the slots that are not padding, (B,) -> (B, n)."""
    return torch.arange(n, device=counts.device) < counts.unsqueeze(-1)


class Similarity:
    """Cosine similarities of rows (B, N, D), read column by column.

    Up to `GRAM_LIMIT` tokens the full (B, N, N) matrix is computed, with one matrix product per image so that
    the values do not depend on the other images of the stack. Beyond that, or with `whole=False`, columns are
    computed when they are read.
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
        """Return similarities of all tokens to one slot per image, (B,) -> (B, N)."""
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
            diagonal = block[:, :, start:stop].diagonal(dim1=1, dim2=2)
            self_similarity = diagonal.clone()
            diagonal.fill_(-torch.inf)
            nearest.append(block.amax(-1))
            diagonal.copy_(self_similarity)
        highest = torch.cat(nearest, -1)
        return (highest if padding is None else highest.masked_fill(padding, torch.inf)).argmin(-1)
