# SPDX-License-Identifier: Apache-2.0
"""Greedy log-determinant selection in a kernel of feature columns, as in OTPrune (arXiv 2602.20205).

The kernel is I + gamma S S^T with S = V V^T, where V are the features with every column divided by its norm
over the tokens. Each pick adds most to the log-determinant of the chosen kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

import tokenprune

from .stacked import select_in_stack


@dataclass(frozen=True)
class LogDetSelector(tokenprune.Selector):
    """Selects greedily the tokens that add most to the log-determinant of I + gamma S S^T.

    With scores r the kernel is diag(r) (I + gamma S S^T) diag(r); negative scores count as 0.

    Parameters
    ----------
    gamma
        Weight of the features against the identity, positive.
    """

    name: ClassVar[str] = "logdet"
    space: ClassVar[str | None] = "features"
    gamma: float = 0.01
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (self.gamma > 0 and math.isfinite(self.gamma)):
            raise tokenprune.OptionError(f"gamma must be a positive number, got {self.gamma}")

    def nested(self, scored: bool) -> bool:
        """Each pick depends only on those before it."""
        return True

    def select(
        self, tokens: tokenprune.VisualTokens, scores: Tensor | None, keep: int
    ) -> tokenprune.Selection:
        """Return `keep` tokens; without scores all have equal weight."""
        return select_in_stack(
            tokens, scores, lambda rows, weights: largest_log_det(rows, weights, self.gamma, keep)
        )


class ColumnKernel:
    """The matrix S S^T of features (N, D), read column by column; it is never computed as a whole.

    S S^T is also V (V^T V) V^T, which is cheaper with fewer columns than tokens. Either way it is the product
    of two matrices, here `left` and the transpose of `right`.
    """

    @torch.no_grad()
    def __init__(self, features: Tensor) -> None:
        columns = unit_columns(features.detach())
        if columns.shape[1] < columns.shape[0]:
            self.left, self.right = columns @ (columns.mT @ columns), columns
        else:
            self.left = self.right = columns @ columns.mT

    def diagonal(self) -> Tensor:
        """Return the diagonal, (N,)."""
        return (self.left * self.right).sum(-1)

    def column(self, slot: Tensor) -> Tensor:
        """Return the column of `slot` (1,), (N,)."""
        return self.left @ self.right.index_select(0, slot).squeeze(0)


def unit_columns(features: Tensor) -> Tensor:
    """Scale the columns of features (..., N, D) to unit length over the tokens, in float32; 0 stays 0."""
    columns = features.float()
    norm = torch.linalg.vector_norm(columns, dim=-2, keepdim=True)
    unit: Tensor = columns / norm.masked_fill(norm == 0, 1)
    return unit


@torch.no_grad()
def largest_log_det(features: Tensor, weights: Tensor, gamma: float, keep: int) -> Tensor:
    """Greedy maximisation of log det(diag(r) (I + gamma S S^T) diag(r)), by incremental Cholesky.

    Takes features (B, N, D) and weights r (B, N); returns slots (B, keep) in the order they were picked. The
    conditional variance of a token never falls below 1, its share of the identity, so that there are picks
    beyond the rank of the features too. Variances are in float64.
    """
    quality = weights.detach().double().clamp(min=0).square()
    kernels = [ColumnKernel(rows) for rows in features]
    pick = _pick_on_cpu if features.device.type == "cpu" else _pick_in_stack
    return pick(kernels, quality, gamma, keep)


def _pick_in_stack(kernels: list[ColumnKernel], quality: Tensor, gamma: float, keep: int) -> Tensor:
    """Implement `largest_log_det` on any device; images share all but the products with their kernels."""
    (b, n), device = quality.shape, quality.device
    batch = torch.arange(b, device=device)
    variance = 1 + gamma * torch.stack([kernel.diagonal() for kernel in kernels]).to(quality.dtype)
    factor = torch.zeros(b, keep, n, dtype=quality.dtype, device=device)
    free = torch.zeros_like(quality)  # -inf where taken
    order = torch.empty(b, keep, dtype=torch.long, device=device)
    for step in range(keep):
        slots = order[:, step] = (quality * variance + free).argmax(-1)
        free[batch, slots] = -torch.inf
        column = torch.stack([k.column(s) for k, s in zip(kernels, torch.split(slots, 1), strict=True)])
        known = (factor[batch, :step, slots].unsqueeze(-1) * factor[:, :step]).sum(1)
        height = variance[batch, slots].sqrt().unsqueeze(-1)
        factor[:, step] = (gamma * column.to(quality.dtype) - known) / height
        variance = variance - factor[:, step].square()
    return order


def _pick_on_cpu(kernels: list[ColumnKernel], quality: Tensor, gamma: float, keep: int) -> Tensor:
    """Implement `largest_log_det` in NumPy, image by image, which is several times faster on a CPU."""
    order = torch.empty(len(kernels), keep, dtype=torch.long)
    for kernel, weight, picks in zip(kernels, quality.numpy(), order, strict=True):
        left, right = kernel.left.numpy(), kernel.right.numpy()
        variance = 1 + gamma * kernel.diagonal().numpy().astype(np.float64)
        factor, free = np.zeros((keep, len(variance))), np.zeros(len(variance))  # -inf where taken
        for step in range(keep):
            slot = int((weight * variance + free).argmax())
            picks[step], free[slot] = slot, -np.inf
            column = gamma * (left @ right[slot]).astype(np.float64)
            factor[step] = (column - factor[:step, slot] @ factor[:step]) / np.sqrt(variance[slot])
            variance -= np.square(factor[step])
    return order


@tokenprune.hookimpl
def tokenprune_selectors() -> list[type[tokenprune.Selector]]:
    """Return the selector class."""
    return [LogDetSelector]
