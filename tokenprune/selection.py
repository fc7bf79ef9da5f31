# SPDX-License-Identifier: Apache-2.0
"""Which rows go on to the language model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Selection:
    """The rows kept of one image, K of N.

    `indices`: (K,) the slot each row comes from, in the order the rows shall stand; ascending for pure
    selections. -1 marks a new row (merged or recycled), which takes the next free slot's position.
    `order`: (K,) the picks in the order they were made, where a selector picks one after the other.
    `features`: (K, D) the rows themselves, needed as soon as one of them is new, otherwise None.
    `scores`: (N,) the scores the choice was made on, None without an opinion.
    A stack of B images has (B, K), (B, K, D) and (B, N).
    """

    indices: Tensor
    order: Tensor | None = None
    features: Tensor | None = None
    scores: Tensor | None = None

    @classmethod
    def from_order(cls, order: Tensor) -> Selection:
        """Make a pure selection of the picks `order` (K,) or (B, K): indices ascending, order kept."""
        return cls(indices=order.sort(-1).values, order=order)

    def __len__(self) -> int:
        """Number of rows kept, K."""
        return self.indices.shape[-1]


def fill_new_rows(indices: Tensor, n: int) -> Tensor:
    """Give each new row (-1) of `indices` (K,) the next free slot of `n` after the row before it.

    Where there is none behind it takes the lowest free one.
    """
    if not bool((indices < 0).any()):
        return indices
    taken = set(indices.tolist())
    filled, last = [], -1
    for index in indices.tolist():
        if index < 0:
            index = next(slot for slot in (*range(last + 1, n), *range(last + 1)) if slot not in taken)
            taken.add(index)
        filled.append(index)
        last = index
    return torch.tensor(filled, device=indices.device)
