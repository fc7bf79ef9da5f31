# SPDX-License-Identifier: Apache-2.0
"""The greedy loop of max-min selection on a CPU, an image at a time, in numpy: a step costs microseconds.

Where nobody has made the whole similarity matrix, only rows of tokens are made that were picked or looked
likely to be: a token's gain never grows, so those with the largest gains now are the ones to come.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .similarity import Similarity

BLOCK = 128  # rows made at once; one matrix product of this many costs little more than one row
FEWEST = 8  # below this a product's bits differ from the whole matrix's


class Rows:
    """Rows of one image's similarities, from unit rows (N, D), or from the matrix (N, N) if it is there."""

    def __init__(self, unit: Tensor, matrix: Tensor | None) -> None:
        self._unit, self._matrix = unit, None if matrix is None else matrix.numpy()
        self._made: dict[int, Any] = {}
        self._is_made = np.zeros(len(unit), dtype=bool)

    def row(self, slot: int, gain: Any, picks_left: int) -> Any:
        """Similarities of all tokens to one, (N,); tokens of large `gain` (N,) are made ready with it."""
        if self._matrix is not None:
            return self._matrix[slot]
        if slot not in self._made:
            n = min(max(FEWEST, min(BLOCK, picks_left)), int((~self._is_made).sum()))
            hope = np.where(self._is_made, -np.inf, np.minimum(gain, np.finfo(np.float32).max))
            hope[slot] = np.inf
            self._make(np.argpartition(-hope, n - 1)[:n])
        return self._made[slot]

    def _make(self, slots: Any) -> None:
        block = (self._unit[torch.from_numpy(slots)] @ self._unit.mT).numpy()
        self._made.update(zip(slots.tolist(), block, strict=True))
        self._is_made[slots] = True


def pick_numpy(
    similarity: Similarity, picks: int, weights: Tensor | None, start: Tensor, counts: Tensor | None
) -> Tensor:
    """Pick as `tokenprune.max_min.pick` does, (B, picks)."""
    b, n, _ = similarity.unit.shape
    order = torch.full((b, picks), -1)
    for i in range(b):
        own = n if counts is None else int(counts[i])
        matrix = None if similarity.matrix is None else similarity.matrix[i, :own, :own]
        weight = None if weights is None else weights[i, :own].float().numpy()
        rows = Rows(similarity.unit[i, :own], matrix)
        found = _of_one(rows, min(picks, own - start.shape[-1]), weight, start[i].tolist(), own)
        order[i, : len(found)] = torch.tensor(found, dtype=torch.long)
    return order


def _of_one(rows: Rows, picks: int, weight: Any, start: list[int], n: int) -> list[int]:
    """Slots of one image in the order they are picked."""
    # weight times distance to the nearest chosen token, -inf where taken; no distance is as large as 4
    gain = np.full(n, np.inf, np.float32) if weight is None else 4 * weight
    away = np.empty(n, np.float32)
    order: list[int] = []
    for step in range(len(start) + max(0, picks)):
        slot = start[step] if step < len(start) else int(gain.argmax())
        np.subtract(1, rows.row(slot, gain, len(start) + picks - step), out=away)
        np.maximum(away, 0, out=away)
        if weight is not None:
            np.multiply(away, weight, out=away)
        np.minimum(gain, away, out=gain)
        gain[slot] = -np.inf
        order.append(slot)
    return order[len(start) :]
