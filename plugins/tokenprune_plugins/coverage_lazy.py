# SPDX-License-Identifier: Apache-2.0
"""The greedy loop of coverage on a CPU, one image at a time, in NumPy.

The gain of a token never grows as more tokens are chosen. Gains are therefore computed again only for tokens
that could be the next pick, which gives the same picks as computing all of them.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenprune.functional import Similarity

BLOCK = 16  # values computed again at once, at first
AT_FIRST = 256  # values computed at once before the first pick


def pick_lazily(similarity: Similarity, weights: Tensor, adds: bool, keep: int) -> Tensor:
    """Implement `tokenprune_plugins.coverage.best_coverage` on CPUs."""
    order = torch.empty(len(weights), keep, dtype=torch.long)
    for number, weight in enumerate(weights.numpy()):
        image = LazyValues(similarity, number, weight, adds)
        order[number] = torch.tensor([image.take_best() for _ in range(keep)])
    return order


class LazyValues:
    """What each token of one image is worth as the next pick, computed only where it matters.

    A value that was computed before the last pick is an upper bound. The largest value is therefore the best
    one if it is up to date; otherwise the largest ones are computed again, with the same rounding.

    Parameters
    ----------
    similarity, number
        Similarities of a stack of images, and the number of the image.
    weight, adds
        (N,) as in `best_coverage`.
    """

    def __init__(self, similarity: Similarity, number: int, weight: NDArray[np.float64], adds: bool) -> None:
        matrix = similarity.matrix
        self._unit = similarity.unit[number]
        self._matrix = None if matrix is None else matrix[number].numpy()
        self._weight, self._adds, n = weight, adds, len(weight)
        self._cover, self._value = np.zeros(n, np.float32), np.zeros(n)
        self._is_current = np.zeros(n, dtype=bool)
        for start in range(0, n, AT_FIRST):
            self._compute(np.arange(start, min(n, start + AT_FIRST)))

    def take_best(self) -> int:
        """Return the slot of the best token, and count it as chosen; ties go to the lowest slot."""
        size = BLOCK
        while not self._is_current[slot := int(self._value.argmax())]:
            bounds = np.where(self._is_current, -np.inf, self._value)
            bounds[slot] = np.inf
            size = min(size, len(bounds))
            self._compute(np.argpartition(-bounds, size - 1)[:size])
            size *= 2
        self._value[slot] = -np.inf
        np.maximum(self._cover, self._rows(np.array([slot]))[0], out=self._cover)
        self._is_current[:] = False
        return slot

    def _compute(self, slots: NDArray[np.int64]) -> None:
        """Compute the values of `slots` (n,); chosen ones keep theirs."""
        more = self._rows(slots) - self._cover
        gain = np.maximum(more, 0, out=more).astype(np.float64).sum(-1)
        weight = self._weight[slots]
        value = gain + weight if self._adds else gain * weight
        self._value[slots] = np.where(np.isneginf(self._value[slots]), -np.inf, value)
        self._is_current[slots] = True

    def _rows(self, slots: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return similarities of all tokens to `slots` (n,), (n, N)."""
        if self._matrix is not None:
            return self._matrix[slots]
        rows: NDArray[np.float32] = (self._unit[torch.from_numpy(slots)] @ self._unit.mT).numpy()
        return rows
