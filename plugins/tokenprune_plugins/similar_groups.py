# SPDX-License-Identifier: Apache-2.0
"""Rank the tokens of each group, those too similar to a better one of their group last, as in PruneSID.

Fang et al., ICLR 2026, arXiv 2603.09480.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenprune.functional import top_slots


@dataclass(frozen=True)
class Ranking:
    """Slots by group; within each group the survivors first, then the suppressed, both by score; on the CPU.

    `slots` (N,); `sizes` (G,), the tokens of each group, and `survivors` (G,), how many are not suppressed.
    """

    slots: Tensor
    sizes: Tensor
    survivors: Tensor

    def first(self, shares: Tensor) -> Tensor:
        """Return the first `shares` (G,) slots of each group, group by group, (K,)."""
        place = torch.arange(len(self.slots)) - (self.sizes.cumsum(0) - self.sizes).repeat_interleave(
            self.sizes
        )
        return self.slots[place < shares.repeat_interleave(self.sizes)]


def ranked(unit: Tensor, groups: Tensor, scores: Tensor, limit: float, n_groups: int) -> Ranking:
    """Rank the tokens of each group, after suppressing those too similar to a better one.

    In order of score, each token that is left suppresses the later ones of its group whose cosine to it
    exceeds the limit. Ties go to the lowest slot.

    Parameters
    ----------
    unit
        Rows of unit length, (N, D).
    groups, scores
        (N,), each token's group, from 0, and its score.
    """
    slots = top_slots(scores.detach(), len(scores))
    slots = slots[groups[slots].argsort(stable=True)]
    sizes = torch.bincount(groups, minlength=n_groups).cpu()
    is_left = torch.ones(len(slots), dtype=torch.bool)
    if limit < 1:  # no cosine exceeds 1
        blocks = _similar(unit[slots], sizes.tolist(), limit)
        is_left = torch.from_numpy(np.concatenate([_survive(block) for block in blocks]))
    slots, group = slots.cpu(), groups[slots].cpu()
    survivors = torch.bincount(group[is_left], minlength=n_groups)
    return Ranking(slots[(2 * group + ~is_left).argsort(stable=True)], sizes, survivors)


def _similar(unit: Tensor, sizes: list[int], limit: float) -> Iterator[NDArray[np.bool_]]:
    """Yield whether the cosine of each pair of rows within a group exceeds the limit, (n, n) for each group.

    Products are in float64. An accelerator compares all pairs at once, which takes fewer transfers.
    """
    unit = unit.double()
    whole = None if unit.device.type == "cpu" else (unit @ unit.mT > limit).cpu()
    stop = 0
    for size in sizes:
        start, stop = stop, stop + size
        inside = slice(start, stop)
        block = unit[inside] @ unit[inside].mT > limit if whole is None else whole[inside, inside]
        yield block.numpy()


def _survive(similar: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which rows are left when each that is left removes later ones similar to it, (n, n) -> (n,)."""
    is_left = np.ones(len(similar), dtype=bool)
    for row in range(len(similar)):
        if is_left[row]:
            is_left[row + 1 :] &= ~similar[row, row + 1 :]
    return is_left


def mean_cosine(unit: Tensor) -> float:
    """Return the mean cosine of all pairs of different rows (N, D) of unit length; 0 for a single row."""
    n, rows = len(unit), unit.double()
    pairs = rows.sum(0).square().sum() - rows.square().sum()
    return float(pairs) / (n * (n - 1)) if n > 1 else 0.0


def tower_threshold(unit: Tensor, total: int) -> float:
    """Return the cosine above which tokens are suppressed in the LLaVA code: T / 32 of the mean cosine."""
    return total / 32 * mean_cosine(unit)


def merged_threshold(unit: Tensor, total: int) -> float:
    """Return the cosine above which tokens are suppressed in the Qwen2-VL code.

    max(18 T / N, 1) times the mean of the upper triangle of the cosines, including the diagonal, over all N^2
    entries: about half of the mean cosine.
    """
    n = len(unit)
    upper = mean_cosine(unit) * n * (n - 1) / 2 + n
    return max(18 * total / n, 1.0) * upper / n**2
