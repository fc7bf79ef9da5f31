# SPDX-License-Identifier: Apache-2.0
"""A scorer without scores: the selector decides alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tokenprune


@dataclass(frozen=True)
class UniformScorer(tokenprune.Scorer):
    """Returns no scores. With `diverse` this is DivPrune; with `topk`, evenly spaced tokens."""

    name: ClassVar[str] = "uniform"
    batched: ClassVar[bool] = True
    gives_scores: ClassVar[bool] = False

    def score(self, tokens: tokenprune.VisualTokens) -> None:
        """Return None: the selector decides."""
        return None


@tokenprune.hookimpl
def tokenprune_scorers() -> list[type[tokenprune.Scorer]]:
    """Return the scorer class."""
    return [UniformScorer]


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the evenly spaced baseline."""
    return [
        tokenprune.Method(
            name="stride",
            title="evenly spaced tokens",
            scorer="uniform",
            selector="topk",
            paper="baseline",
        )
    ]
