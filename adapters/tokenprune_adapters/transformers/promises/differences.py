# SPDX-License-Identifier: Apache-2.0
"""How far two runs are apart, and how far they may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import stock

# What may be made of rounding, by the dtype of the rows, relative to the size of a row: orders of sums and
# the kernels of attention differ with the number of rows. What is wrong by a position, a mask or a row is
# wrong by much more (1e-2 and up in the first layers).
FLOOR = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 2e-1}
TIMES_OWN = 10.0  # or so many times what separates the model's own decoding from its prefill


def floor_of(dtype: torch.dtype) -> float:
    """The tolerance of a dtype."""
    return FLOOR.get(dtype, 2e-1)


def of_rows(rows: Tensor, wanted: Tensor) -> float:
    """The largest difference of a row (..., D), relative to its size; infinite where there are other rows."""
    if rows.shape != wanted.shape:
        return math.inf
    if not rows.numel():
        return 0.0
    wanted = wanted.double()
    sizes = wanted.norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
    return float(((rows.to(wanted.device).double() - wanted).norm(dim=-1) / sizes).max())


def of_caches(layers: Sequence[Any], wanted: Sequence[Any]) -> tuple[float, str]:
    """The largest difference of a token's keys or values, and where slots are not as many, in words."""
    largest = 0.0
    for number, (layer, other) in enumerate(zip(layers, wanted, strict=True)):
        for one, two in zip(stock.contents_of(layer), stock.contents_of(other), strict=True):
            if one.shape != two.shape:
                said = f"layer {number} stores {one.shape[-2]} tokens, and {two.shape[-2]} stay"
                return math.inf, said
            largest = max(largest, of_rows(_by_token(one), _by_token(two)))
    return largest, ""


def _by_token(stored: Tensor) -> Tensor:
    """Keys or values (1, H, S, d) as a row for each token, (S, H d)."""
    return stored[0].transpose(0, 1).flatten(1)


def bytes_of(layers: Sequence[Any], lengths: Sequence[int]) -> int:
    """Bytes of so many tokens in each cache layer; a layer that slides holds no more than it does now."""
    total = 0
    for layer, length in zip(layers, lengths, strict=True):
        for stored in stock.contents_of(layer):
            n = stored.shape[-2]
            total += min(length, n) * (stored.numel() // n) * stored.element_size()
    return total
