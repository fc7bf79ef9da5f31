# SPDX-License-Identifier: Apache-2.0
"""The greedy loop of max-min selection on a CPU, one image at a time, in numpy: a step costs microseconds.

Without the full similarity matrix, rows are computed on demand, in blocks: the row of the picked token and
those of the tokens with the largest gains. A gain never grows, so these are the most likely next picks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .similarity import Similarity

BLOCK = 128  # rows computed at once; a matrix product of this size costs little more than a single row
FEWEST = 8  # products of fewer rows differ in their last bits from the full matrix


class Rows:
    """Rows of an image's similarity matrix, from unit rows (N, D), or from `matrix` (N, N) if given."""

    def __init__(self, unit: Tensor, matrix: Tensor | None) -> None:
        self._unit, self._matrix = unit, None if matrix is None else matrix.numpy()
        self._rows: dict[int, Any] = {}
        self._is_computed = np.zeros(len(unit), dtype=bool)

    def row(self, slot: int, gain: Any, picks_left: int) -> Any:
        """Return similarities of all tokens to `slot`, (N,); computes rows of large `gain` (N,) with it."""
        if self._matrix is not None:
            return self._matrix[slot]
        if slot not in self._rows:
            n = min(max(FEWEST, min(BLOCK, picks_left)), int((~self._is_computed).sum()))
            priority = np.where(self._is_computed, -np.inf, np.minimum(gain, np.finfo(np.float32).max))
            priority[slot] = np.inf
            self._compute(np.argpartition(-priority, n - 1)[:n])
        return self._rows[slot]

    def _compute(self, slots: Any) -> None:
        block = (self._unit[torch.from_numpy(slots)] @ self._unit.mT).numpy()
        self._rows.update(zip(slots.tolist(), block, strict=True))
        self._is_computed[slots] = True


def pick_numpy(
    similarity: Similarity, picks: int, weights: Tensor | None, start: Tensor, counts: Tensor | None
) -> Tensor:
    """Implement `tokenprune.max_min.pick` in numpy."""
    b, n, _ = similarity.unit.shape
    order = torch.full((b, picks), -1)
    for i in range(b):
        count = n if counts is None else int(counts[i])
        matrix = None if similarity.matrix is None else similarity.matrix[i, :count, :count]
        weight = None if weights is None else weights[i, :count].float().numpy()
        rows = Rows(similarity.unit[i, :count], matrix)
        slots = _pick_in_image(rows, min(picks, count - start.shape[-1]), weight, start[i].tolist(), count)
        order[i, : len(slots)] = torch.tensor(slots, dtype=torch.long)
    return order


def _pick_in_image(rows: Rows, picks: int, weight: Any, start: list[int], n: int) -> list[int]:
    """Return the slots of one image in the order they are picked."""
    # weight times distance to the nearest chosen token, -inf if taken; distances are below 4
    gain = np.full(n, np.inf, np.float32) if weight is None else 4 * weight
    distance = np.empty(n, np.float32)
    order: list[int] = []
    for step in range(len(start) + max(0, picks)):
        slot = start[step] if step < len(start) else int(gain.argmax())
        np.subtract(1, rows.row(slot, gain, len(start) + picks - step), out=distance)
        np.maximum(distance, 0, out=distance)
        if weight is not None:
            np.multiply(distance, weight, out=distance)
        np.minimum(gain, distance, out=gain)
        gain[slot] = -np.inf
        order.append(slot)
    return order[len(start) :]
