# SPDX-License-Identifier: Apache-2.0
"""Differences of two runs, and their tolerances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokenprune.precision import in_float64

from .. import stock

# Tolerance for rounding, by the dtype of the rows, relative to the norm of a row: summation orders and
# attention kernels depend on the number of rows. A wrong position, mask or row causes a much larger
# difference (1e-2 and up in the first layers).
FLOOR = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 2e-1}
TIMES_OWN = 10.0  # or this multiple of the difference between the model's own decoding and prefill


def floor_of(dtype: torch.dtype) -> float:
    """The tolerance of a dtype."""
    return FLOOR.get(dtype, 2e-1)


def of_rows(rows: Tensor, wanted: Tensor) -> float:
    """The largest difference of a row (..., D), relative to its norm; infinite if the shapes differ."""
    if rows.shape != wanted.shape:
        return math.inf
    if not rows.numel():
        return 0.0
    wanted = in_float64(wanted)
    sizes = wanted.norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
    return float(((in_float64(rows).to(wanted.device) - wanted).norm(dim=-1) / sizes).max())


def of_caches(layers: Sequence[Any], wanted: Sequence[Any]) -> tuple[float, str]:
    """The largest difference of states, and of a token's keys or values; a note if slot counts differ."""
    largest = 0.0
    for number, (layer, other) in enumerate(zip(layers, wanted, strict=True)):
        for state, expected in zip(stock.states_of(layer), stock.states_of(other), strict=True):
            largest = max(largest, of_rows(state.flatten()[None], expected.flatten()[None]))
        for stored, expected in zip(stock.contents_of(layer), stock.contents_of(other), strict=True):
            if stored.shape != expected.shape:
                note = f"layer {number} stores {stored.shape[-2]} tokens, and {expected.shape[-2]} are kept"
                return math.inf, note
            largest = max(largest, of_rows(_by_token(stored), _by_token(expected)))
    return largest, ""


def _by_token(stored: Tensor) -> Tensor:
    """Reshape keys or values (1, H, S, d) to one row per token, (S, H d)."""
    return stored[0].transpose(0, 1).flatten(1)


def bytes_of(layers: Sequence[Any], lengths: Sequence[int]) -> int:
    """Bytes of `lengths` tokens in each cache layer; a sliding layer holds its current length at most."""
    total = 0
    for layer, length in zip(layers, lengths, strict=True):
        for stored in stock.contents_of(layer):
            n = stored.shape[-2]
            total += min(length, n) * (stored.numel() // n) * stored.element_size()
    return total
