# SPDX-License-Identifier: Apache-2.0
"""No opinion: leaves the choice to the selector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tokenprune


@dataclass(frozen=True)
class UniformScorer(tokenprune.Scorer):
    """Scores nothing. With `diverse` this is DivPrune, with `topk` an evenly spaced grid."""

    name: ClassVar[str] = "uniform"
    batched: ClassVar[bool] = True

    def score(self, tokens: tokenprune.VisualTokens) -> None:
        """Return None: no opinion."""
        return None


@tokenprune.hookimpl
def tokenprune_scorers() -> list[type[tokenprune.Scorer]]:
    """Deliver the scorer."""
    return [UniformScorer]


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Deliver the evenly spaced baseline."""
    return [
        tokenprune.Method(
            name="stride",
            title="every so many-th token",
            scorer="uniform",
            selector="topk",
            paper="baseline",
        )
    ]
