# SPDX-License-Identifier: Apache-2.0
"""VisPruner: half by CLS attention, half by weeding out look-alikes.

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

STEP = 8  # tokens removed at most in one round
LISTED = 16  # most similar rows of each that are kept at hand
BLOCK = 1024  # rows whose similarities are sorted at once


@dataclass(frozen=True)
class VisPrunerSelector(tokenprune.Selector):
    """The best tokens by score, and of the others those left when look-alikes are removed round by round.

    Parameters
    ----------
    important_ratio
        Share of the budget that goes by score, truncated; without scores nothing does.
    """

    name: ClassVar[str] = "vispruner"
    space: ClassVar[str | None] = "pre_features"
    by_position: ClassVar[bool] = True
    important_ratio: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.important_ratio <= 1:
            raise tokenprune.OptionError(f"important_ratio must lie in [0, 1], got {self.important_ratio}")

    @property
    def needs(self) -> frozenset[str]:
        """Look-alikes are found among the tower's rows."""
        return frozenset({"pre_features"})

    def select(
        self, tokens: tokenprune.VisualTokens, scores: Tensor | None, keep: int
    ) -> tokenprune.Selection:
        """Return `keep` tokens, those by score first."""
        rows: Tensor = tokens.signal("pre_features").flatten(1)
        n_important = 0 if scores is None else int(keep * self.important_ratio)
        slots = (
            torch.arange(len(rows), device=rows.device) if scores is None else top_slots(scores, len(rows))
        )
        others = slots[n_important:]
        distinct = others[remove_similar(rows[others], keep - n_important)]
        return tokenprune.Selection.from_order(torch.cat([slots[:n_important], distinct]))


def remove_similar(rows: Tensor, keep: int) -> Tensor:
    """Numbers (keep,) of the rows (R, D) that stay when look-alikes are removed, at most 8 a round.

    Each round splits the list into even and odd places and removes the even ones most similar (cosine) to any
    odd one; the even ones that stay go in front, the more similar first.
    """
    unit = unit_rows(rows.detach())
    similarity = unit @ unit.mT
    left = torch.arange(len(rows), device=rows.device)[: len(rows) if keep else 0]
    if rows.device.type == "cpu":
        return torch.from_numpy(_removed_on_cpu(similarity, left.numpy(), keep))
    return _removed_by_all_pairs(similarity, left, keep)


def _removed_by_all_pairs(similarity: Tensor, left: Tensor, keep: int) -> Tensor:
    """The rounds of `remove_similar` on an accelerator: all pairs are quicker than asking what is missing."""
    while len(left) > keep:
        even, odd = left[0::2], left[1::2]
        closest = similarity[even.unsqueeze(1), odd].amax(-1)
        n_removed = min(STEP, len(left) - keep, len(even))
        left = torch.cat([even[top_slots(closest, len(even))[n_removed:]], odd])
    return left


def _removed_on_cpu(similarity: Tensor, left: Slots, keep: int) -> Slots:
    """The rounds of `remove_similar` in numpy."""
    if len(left) <= keep:
        return left
    nearest = Nearest(similarity, left)
    while len(left) > keep:
        even, odd = left[0::2], left[1::2]
        order = np.argsort(-nearest.among(even, odd), kind="stable")
        left = np.concatenate([even[order[min(STEP, len(left) - keep, len(even)) :]], odd])
    return left


class Nearest:
    """Finds the largest similarity of some rows to any of some others, for a list that only gets shorter.

    All pairs of each of R / 8 rounds would be R^3 / 100 numbers. Each row has a short list of those most
    similar to it, half of which are likely among the others; where none is, all others are gone through. Once
    that has cost as much as making the lists, they are made anew, of the rows that are left.

    Parameters
    ----------
    similarity
        (R, R) of all rows.
    left
        Numbers of the rows to begin with.
    """

    def __init__(self, similarity: Tensor, left: Slots) -> None:
        self._similarity, self._all_pairs = similarity, similarity.numpy()
        self._place = np.zeros(len(similarity), dtype=np.int64)
        self._list(left)

    def _list(self, left: Slots) -> None:
        """Write down who is most similar to each row that is left."""
        values, rows, numbers = [], [], torch.from_numpy(left)
        for start in range(0, len(left), BLOCK):
            block = self._similarity[numbers[start : start + BLOCK]][:, numbers]
            near = block.topk(min(LISTED, len(left)), -1)
            values.append(near.values.numpy())
            rows.append(left[near.indices.numpy()])
        self._values, self._rows = np.concatenate(values), np.concatenate(rows)  # (L, LISTED)
        self._place[left] = np.arange(len(left))
        self._gone_through, self._worth = 0, len(left) ** 2

    def among(self, some: Slots, others: Slots) -> Values:
        """Largest similarity of each of `some` rows (E,) to one of the `others` (O,), (E,)."""
        if self._gone_through > self._worth:
            self._list(np.concatenate([some, others]))
        is_other = np.zeros(len(self._place), dtype=bool)
        is_other[others] = True
        place, here = self._place[some], np.arange(len(some))
        hit = is_other[self._rows[place]]  # (E, LISTED), the most similar first
        first = hit.argmax(-1)
        closest: Values = self._values[place, first]
        missing = ~hit[here, first]
        if missing.any():
            closest[missing] = self._all_pairs[np.ix_(some[missing], others)].max(-1)
            self._gone_through += int(missing.sum()) * len(others)
        return closest


@tokenprune.hookimpl
def tokenprune_selectors() -> list[type[tokenprune.Selector]]:
    """Deliver the selector."""
    return [VisPrunerSelector]


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Deliver the method, and its variant for towers without CLS."""
    odd = "an odd number of remaining tokens works; the official code fails there"
    return [
        tokenprune.Method(
            name="vispruner",
            title="VisPruner: CLS attention, then look-alikes removed",
            scorer="attention",
            selector="vispruner",
            scope="tile",
            newlines="drop",
            paper="arXiv 2412.01818 (ICCV 2025)",
            deviations=(odd,),
        ),
        tokenprune.Method(
            name="vispruner-received",
            title="VisPruner without CLS: attention received, then look-alikes removed",
            scorer=AttentionScorer(source="received"),
            selector="vispruner",
            scope="tile",
            newlines="drop",
            paper="arXiv 2412.01818 (ICCV 2025)",
            deviations=(odd, "ours for towers without CLS: the official code has nothing for them"),
        ),
    ]
