# SPDX-License-Identifier: Apache-2.0
"""Greedy MAP selection with a determinantal point process (DPP), as in CDPruner (arXiv 2506.10967).

Selects tokens that point in different directions, each direction scaled by its score: one token at a time,
argmax det(diag(r) cos(Z, Z) diag(r)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune
from tokenprune.functional import Similarity

from .stacked import select_in_stack

FLAT_VOLUME = 1e-6  # below this squared sine to the chosen tokens, a volume is only rounding error


@dataclass(frozen=True)
class DppSelector(tokenprune.Selector):
    """Selects greedily the tokens of largest volume, each scaled by its score; negative scores count as 0."""

    name: ClassVar[str] = "dpp"
    space: ClassVar[str | None] = "features"
    batched: ClassVar[bool] = True

    def nested(self, scored: bool) -> bool:
        """Each pick depends only on those before it."""
        return True

    def select(
        self, tokens: tokenprune.VisualTokens, scores: Tensor | None, keep: int
    ) -> tokenprune.Selection:
        """Return `keep` tokens; without scores all have equal weight."""
        return select_in_stack(tokens, scores, lambda rows, weights: largest_volume(rows, weights, keep))


def largest_volume(features: Tensor, relevance: Tensor, keep: int) -> Tensor:
    """Greedy MAP inference for the DPP with kernel diag(r) cos(Z, Z) diag(r), by incremental Cholesky.

    Takes features (B, N, D) and relevance (B, N); returns slots (B, keep) in the order they were picked. Once
    no token adds volume (more picks than dimensions), the most relevant of the remaining tokens follow.
    """
    b, n, _ = features.shape
    similarity, batch = Similarity(features), torch.arange(b, device=features.device)
    r = relevance.double().clamp(min=0)
    volume = whole = r.square()  # squared height of each token above the span of the chosen tokens
    factor = torch.zeros(b, keep, n, dtype=torch.float64, device=features.device)
    flat = -1 / (whole + torch.finfo(torch.float64).tiny)  # negative, ordered by relevance however small
    free = torch.zeros_like(r)  # -inf where taken
    order = torch.empty(b, keep, dtype=torch.long, device=features.device)
    for step in range(keep):
        gain = torch.where(volume > FLAT_VOLUME * whole, volume, flat)
        slots = order[:, step] = (gain + free).argmax(-1)
        free[batch, slots] = -torch.inf
        height = volume[batch, slots].clamp(min=0).sqrt().unsqueeze(-1)
        column = r[batch, slots].unsqueeze(-1) * r * similarity.column(slots)
        column = column - (factor[batch, :step, slots].unsqueeze(1) @ factor[:, :step]).squeeze(1)
        is_flat = gain[batch, slots].unsqueeze(-1) <= 0
        factor[:, step] = torch.where(is_flat, 0, column / height)
        volume = volume - factor[:, step].square()
    return order


@tokenprune.hookimpl
def tokenprune_selectors() -> list[type[tokenprune.Selector]]:
    """Return the selector class."""
    return [DppSelector]
