# SPDX-License-Identifier: Apache-2.0
"""Select part of the budget by score and the rest by diversity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune
from tokenprune.functional import max_min_diversity, top_slots


@dataclass(frozen=True)
class HybridSelector(tokenprune.Selector):
    """Selects `fraction` of the budget by score, the rest by diversity from the tokens already chosen.

    Parameters
    ----------
    fraction
        Share of the budget selected by score, in [0, 1]; the count is rounded half up.
    """

    name: ClassVar[str] = "hybrid"
    space: ClassVar[str | None] = "features"
    fraction: float = 0.5
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise tokenprune.OptionError(f"fraction must be in [0, 1], got {self.fraction}")

    def nested(self, scored: bool) -> bool:
        """The number selected by score grows with the budget, unless it is all or none."""
        return not scored or self.fraction in (0, 1)

    def select(
        self, tokens: tokenprune.VisualTokens, scores: Tensor | None, keep: int
    ) -> tokenprune.Selection:
        """Return `keep` tokens; without scores, all are selected by diversity."""
        n_best = 0 if scores is None else int(self.fraction * keep + 0.5)
        if scores is None or n_best == 0:
            return tokenprune.Selection.from_order(max_min_diversity(tokens.features, keep))
        best = top_slots(scores, n_best)
        rest = max_min_diversity(tokens.features, keep - n_best, chosen=best)
        return tokenprune.Selection.from_order(torch.cat([best, rest], -1))


@tokenprune.hookimpl
def tokenprune_selectors() -> list[type[tokenprune.Selector]]:
    """Return the selector class."""
    return [HybridSelector]
