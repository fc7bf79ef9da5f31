# SPDX-License-Identifier: Apache-2.0
"""Select by max-min diversity, weighted by scores, as in ZOO-Prune and DivPrune.

ZOO-Prune (arXiv 2509.24837) picks argmax w_i min_{j chosen} (1 - cos(z_i, z_j)) with w the normalised scores,
starting from the highest score. DivPrune (Alvar et al., CVPR 2025, arXiv 2503.02175) has no scores and
starts from the token farthest from its nearest neighbour. z are the rows entering the language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune
from tokenprune.functional import max_min_diversity, min_max


@dataclass(frozen=True)
class DiverseSelector(tokenprune.Selector):
    """Greedy max-min cosine distance times the normalised score.

    Parameters
    ----------
    normalise
        `"minmax"`: (s - min) / (max - min), as in the official code; the lowest score then has weight 0.
        `"max"`: s / max, which preserves ratios between scores. Constant scores get weight 1 either way.
    """

    name: ClassVar[str] = "diverse"
    space: ClassVar[str | None] = "features"
    normalise: str = "minmax"
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.normalise not in ("minmax", "max"):
            raise tokenprune.OptionError(f"normalise must be 'minmax' or 'max', got {self.normalise!r}")

    def nested(self, scored: bool) -> bool:
        """Each pick depends only on those before it."""
        return True

    def weights(self, scores: Tensor) -> Tensor:
        """Normalise scores (..., N) to weights of the distances."""
        if self.normalise == "minmax":
            return min_max(scores)
        scores = scores.float()
        low, high = scores.amin(-1, keepdim=True), scores.amax(-1, keepdim=True)
        weights = scores.clamp(min=0) / high.clamp(min=torch.finfo(scores.dtype).tiny)
        return torch.where(high == low, torch.ones_like(weights), weights)

    def select(
        self, tokens: tokenprune.VisualTokens, scores: Tensor | None, keep: int
    ) -> tokenprune.Selection:
        """Return `keep` tokens far from each other, preferring high scores."""
        weights = None if scores is None else self.weights(scores)
        return tokenprune.Selection.from_order(max_min_diversity(tokens.features, keep, weights))


@tokenprune.hookimpl
def tokenprune_selectors() -> list[type[tokenprune.Selector]]:
    """Return the selector class."""
    return [DiverseSelector]
