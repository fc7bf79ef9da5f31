# SPDX-License-Identifier: Apache-2.0
"""Select the highest scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

import tokenprune
from tokenprune.functional import even_slots, top_slots


@dataclass(frozen=True)
class TopKSelector(tokenprune.Selector):
    """Selects the tokens with the highest scores; without scores, evenly spaced tokens."""

    name: ClassVar[str] = "topk"
    batched: ClassVar[bool] = True

    def nested(self, scored: bool) -> bool:
        """Evenly spaced tokens depend on how many there are."""
        return scored

    def select(
        self, tokens: tokenprune.VisualTokens, scores: Tensor | None, keep: int
    ) -> tokenprune.Selection:
        """Return the `keep` tokens with the highest scores."""
        if scores is None:
            slots = even_slots(len(tokens), keep, tokens.features.device)
            return tokenprune.Selection.from_order(slots.expand(*tokens.features.shape[:-2], keep))
        return tokenprune.Selection.from_order(top_slots(scores, keep))


@tokenprune.hookimpl
def tokenprune_selectors() -> list[type[tokenprune.Selector]]:
    """Return the selector class."""
    return [TopKSelector]
