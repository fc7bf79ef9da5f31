# SPDX-License-Identifier: Apache-2.0
"""VisPruner: half by CLS attention, half by weeding out look-alikes.

Zhang et al., ICCV 2025, arXiv 2412.01818.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune
from tokenprune.functional import top_slots, unit_rows

from .attention import AttentionScorer

STEP = 8  # tokens removed at most in one round


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
    unit = unit_rows(rows)
    similarity = unit @ unit.mT
    left = torch.arange(len(rows), device=rows.device)[: len(rows) if keep else 0]
    while len(left) > keep:
        even, odd = left[0::2], left[1::2]
        closest = similarity[even.unsqueeze(1), odd].amax(-1)
        n_removed = min(STEP, len(left) - keep, len(even))
        left = torch.cat([even[top_slots(closest, len(even))[n_removed:]], odd])
    return left


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
