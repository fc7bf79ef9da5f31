# SPDX-License-Identifier: Apache-2.0
"""VisPruner: half of the budget by CLS attention, half by removing similar tokens.

Zhang et al., ICCV 2025, arXiv 2412.01818.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import tokenprune
from tokenprune.functional import top_slots, unit_rows

from .attention import AttentionScorer

Slots = NDArray[np.int64]
Values = NDArray[Any]

STEP = 8  # tokens removed in one round, at most
N_NEAREST = 16  # length of each row's list of most similar rows
BLOCK = 1024  # rows whose similarities are sorted at once


@dataclass(frozen=True)
class VisPrunerSelector(tokenprune.Selector):
    """Selects the best tokens by score, and of the others those left after removing similar ones in rounds.

    Parameters
    ----------
    important_ratio
        Share of the budget selected by score; the count is truncated. Without scores it is 0.
    """

    name: ClassVar[str] = "vispruner"
    space: ClassVar[str | None] = "pre_features"
    by_position: ClassVar[bool] = True
    important_ratio: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.important_ratio <= 1:
            raise tokenprune.OptionError(f"important_ratio must be in [0, 1], got {self.important_ratio}")

    @property
    def needs(self) -> frozenset[str]:
        """The tower's rows, in which similarity is measured."""
        return frozenset({"pre_features"})

    def select(
        self, tokens: tokenprune.VisualTokens, scores: Tensor | None, keep: int
    ) -> tokenprune.Selection:
        """Return `keep` tokens, those selected by score first."""
        rows: Tensor = tokens.signal("pre_features").flatten(1)
        n_important = 0 if scores is None else int(keep * self.important_ratio)
        slots = (
            torch.arange(len(rows), device=rows.device) if scores is None else top_slots(scores, len(rows))
        )
        others = slots[n_important:]
        distinct = others[remove_similar(rows[others], keep - n_important)]
        return tokenprune.Selection.from_order(torch.cat([slots[:n_important], distinct]))


def remove_similar(rows: Tensor, keep: int) -> Tensor:
    """Return indices (keep,) of the rows (R, D) left after removing similar ones, at most 8 in each round.

    Each round splits the list into even and odd positions and removes the even rows most similar (cosine) to
    any odd row. The remaining even rows go to the front, most similar first.
    """
    unit = unit_rows(rows.detach())
    similarity = unit @ unit.mT
    left = torch.arange(len(rows), device=rows.device)[: len(rows) if keep else 0]
    if rows.device.type == "cpu":
        return torch.from_numpy(_removed_on_cpu(similarity, left.numpy(), keep))
    return _removed_by_all_pairs(similarity, left, keep)


def _removed_by_all_pairs(similarity: Tensor, left: Tensor, keep: int) -> Tensor:
    """Run the rounds of `remove_similar` on an accelerator, where comparing all pairs is faster."""
    while len(left) > keep:
        even, odd = left[0::2], left[1::2]
        closest = similarity[even.unsqueeze(1), odd].amax(-1)
        n_removed = min(STEP, len(left) - keep, len(even))
        left = torch.cat([even[top_slots(closest, len(even))[n_removed:]], odd])
    return left


def _removed_on_cpu(similarity: Tensor, left: Slots, keep: int) -> Slots:
    """Run the rounds of `remove_similar` in NumPy."""
    if len(left) <= keep:
        return left
    nearest = Nearest(similarity, left)
    while len(left) > keep:
        even, odd = left[0::2], left[1::2]
        order = np.argsort(-nearest.among(even, odd), kind="stable")
        left = np.concatenate([even[order[min(STEP, len(left) - keep, len(even)) :]], odd])
    return left


class Nearest:
    """Finds the largest similarity of query rows to any candidate row, for a shrinking list of rows.

    Comparing all pairs in each of R / 8 rounds would take R^3 / 100 comparisons. Instead, each row has a
    short list of its most similar rows, of which about half are candidates; only if none is, the row is
    compared with all candidates. Once these comparisons have cost as much as building the lists, the lists
    are rebuilt from the remaining rows.

    Parameters
    ----------
    similarity
        (R, R), similarity of all rows.
    left
        Indices of the rows to start with.
    """

    def __init__(self, similarity: Tensor, left: Slots) -> None:
        self._similarity, self._all_pairs = similarity, similarity.numpy()
        self._position = np.zeros(len(similarity), dtype=np.int64)
        self._build_lists(left)

    def _build_lists(self, left: Slots) -> None:
        """Store the most similar rows of each remaining row."""
        values, rows, indices = [], [], torch.from_numpy(left)
        for start in range(0, len(left), BLOCK):
            block = self._similarity[indices[start : start + BLOCK]][:, indices]
            near = block.topk(min(N_NEAREST, len(left)), -1)
            values.append(near.values.numpy())
            rows.append(left[near.indices.numpy()])
        self._values, self._rows = np.concatenate(values), np.concatenate(rows)  # (L, N_NEAREST)
        self._position[left] = np.arange(len(left))
        self._n_comparisons, self._rebuild_after = 0, len(left) ** 2

    def among(self, queries: Slots, candidates: Slots) -> Values:
        """Return the largest similarity of each query row (E,) to any candidate row (O,), (E,)."""
        if self._n_comparisons > self._rebuild_after:
            self._build_lists(np.concatenate([queries, candidates]))
        is_candidate = np.zeros(len(self._position), dtype=bool)
        is_candidate[candidates] = True
        position, row = self._position[queries], np.arange(len(queries))
        hit = is_candidate[self._rows[position]]  # (E, N_NEAREST), most similar first
        first = hit.argmax(-1)
        closest: Values = self._values[position, first]
        missing = ~hit[row, first]
        if missing.any():
            closest[missing] = self._all_pairs[np.ix_(queries[missing], candidates)].max(-1)
            self._n_comparisons += int(missing.sum()) * len(candidates)
        return closest


@tokenprune.hookimpl
def tokenprune_selectors() -> list[type[tokenprune.Selector]]:
    """Return the selector class."""
    return [VisPrunerSelector]


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the method, and its variant for towers without a CLS token."""
    odd_counts = "an odd number of remaining tokens is supported; the official code fails there"
    return [
        tokenprune.Method(
            name="vispruner",
            title="VisPruner: CLS attention, then similar tokens removed",
            scorer="attention",
            selector="vispruner",
            scope="tile",
            newlines="drop",
            paper="arXiv 2412.01818 (ICCV 2025)",
            deviations=(odd_counts,),
        ),
        tokenprune.Method(
            name="vispruner-received",
            variant_of="vispruner",
            title="VisPruner without CLS: attention received, then similar tokens removed",
            scorer=AttentionScorer(source="received"),
            selector="vispruner",
            scope="tile",
            newlines="drop",
            paper="arXiv 2412.01818 (ICCV 2025)",
            deviations=(odd_counts, "ours: the official code does not support towers without a CLS token"),
        ),
    ]
