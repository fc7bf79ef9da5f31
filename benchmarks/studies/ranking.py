# SPDX-License-Identifier: Apache-2.0
"""Compare two rankings of the same tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def ranks(values: Tensor) -> Tensor:
    """Rank values (N,) from 1; ties get their mean rank. Returns float64."""
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    mean_rank: Tensor = (last - (counts - 1) / 2)[place]
    return mean_rank


def spearman(one: Tensor, other: Tensor) -> float | None:
    """Return Spearman's correlation of two scores (N,); None if one of them is constant."""
    a, b = (ranks(values.detach().cpu()) for values in (one, other))
    a, b = a - a.mean(), b - b.mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale else None


def shared_share(one: Tensor, other: Tensor) -> float:
    """Return the share of slots that two selections (K,) have in common."""
    return len(set(one.tolist()) & set(other.tolist())) / len(one)
