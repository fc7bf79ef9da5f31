# SPDX-License-Identifier: Apache-2.0
"""Select by maximal marginal relevance (MMR): high scores, unlike the tokens chosen before.

Carbonell and Goldstein, SIGIR 1998, for documents that answer a query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune
from tokenprune.functional import Similarity, max_min_diversity, min_max

from .stacked import select_in_stack


@dataclass(frozen=True)
class MmrSelector(tokenprune.Selector):
    """Picks argmax w r_j - (1 - w) max_{i chosen} cos(z_j, z_i), starting from the highest score.

    r are the scores, min-max normalised to [0, 1]. Without scores only the second term is left: the selector
    is then `diverse` without scores, for every w.

    Parameters
    ----------
    weight
        w, the paper's lambda, in [0, 1]: 1 selects by score alone, 0 by difference alone.
    """

    name: ClassVar[str] = "mmr"
    space: ClassVar[str | None] = "features"
    weight: float = 0.5
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise tokenprune.OptionError(f"weight must be in [0, 1], got {self.weight}")

    def nested(self, scored: bool) -> bool:
        """Each pick depends only on those before it."""
        return True

    def select(
        self, tokens: tokenprune.VisualTokens, scores: Tensor | None, keep: int
    ) -> tokenprune.Selection:
        """Return `keep` tokens, the highest score first."""
        if scores is None:
            return tokenprune.Selection.from_order(max_min_diversity(tokens.features, keep))
        return select_in_stack(
            tokens,
            min_max(scores.detach()),
            lambda rows, relevance: marginal_relevance(rows, relevance, self.weight, keep),
        )


@torch.no_grad()
def marginal_relevance(features: Tensor, relevance: Tensor, weight: float, keep: int) -> Tensor:
    """Return slots (B, keep) in the order they are picked, from features (B, N, D) and relevance (B, N)."""
    similarity, batch = Similarity(features), torch.arange(len(features), device=features.device)
    gain = weight * relevance  # -inf where taken
    order = torch.empty(len(features), keep, dtype=torch.long, device=features.device)
    slots = order[:, 0] = relevance.argmax(-1)
    closest = similarity.column(slots)
    for step in range(1, keep):
        gain[batch, slots] = -torch.inf
        slots = order[:, step] = torch.sub(gain, closest, alpha=1 - weight).argmax(-1)
        closest = torch.maximum(closest, similarity.column(slots))
    return order


@tokenprune.hookimpl
def tokenprune_selectors() -> list[type[tokenprune.Selector]]:
    """Return the selector class."""
    return [MmrSelector]
