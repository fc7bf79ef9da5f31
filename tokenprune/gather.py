# SPDX-License-Identifier: Apache-2.0
"""Gather rows of a batch."""

from __future__ import annotations

from torch import Tensor


def take(x: Tensor, index: Tensor, axis: int = 1) -> Tensor:
    """Gather `x` along its sequence axis with `index` (B, P); the batch axis just before may be 1."""
    index = index.to(x.device)
    if x.shape[axis - 1] == 1 and len(index) > 1:
        x = x.expand(*x.shape[: axis - 1], len(index), *x.shape[axis:])
    shape = [1] * x.ndim
    shape[axis - 1], shape[axis] = index.shape
    full = list(x.shape)
    full[axis] = index.shape[1]
    return x.gather(axis, index.view(shape).expand(full))
