# SPDX-License-Identifier: Apache-2.0
"""Validation of what the tests take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def check_share(what: str, value: float) -> None:
    """Raise ValueError unless a value lies strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{what} must be above 0 and below 1, got {value!r}")


def check_size(n: int) -> None:
    """Raise ValueError for an empty sample."""
    if n < 1:
        raise ValueError(f"a sample has at least one loss, got {n}")


def losses_of(values: ArrayLike) -> Array:
    """Return losses (n,) as float64; raise ValueError unless they are in [0, 1]."""
    losses = np.asarray(values, dtype=np.float64)
    if losses.ndim != 1:
        raise ValueError(f"losses have one axis, got the shape {losses.shape}")
    check_size(len(losses))
    if not np.isfinite(losses).all() or losses.min() < 0 or losses.max() > 1:
        raise ValueError(f"losses must be in [0, 1], got {losses.min()} to {losses.max()}")
    return losses


def same_lengths(losses: Sequence[Array]) -> None:
    """Raise ValueError if settings have different numbers of losses: all answer the same units."""
    lengths = {len(values) for values in losses}
    if len(lengths) > 1:
        raise ValueError(f"all settings need losses of the same units, got {sorted(lengths)} of them")
