# SPDX-License-Identifier: Apache-2.0
"""Largest volume: greedy choice by a determinantal point process, as in CDPruner (arXiv 2506.10967).

Tokens are chosen that point in different directions, each stretched by its score:
argmax det(diag(r) cos(Z, Z) diag(r)), one token after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune
from tokenprune.functional import Similarity

FLAT_VOLUME = 1e-6  # a token this close to what is chosen (squared sine) adds nothing but rounding


@dataclass(frozen=True)
class DppSelector(tokenprune.Selector):
    """Greedy largest volume of the tokens, each scaled by its score; negative scores count as 0."""

    name: ClassVar[str] = "dpp"
    space: ClassVar[str | None] = "features"
    batched: ClassVar[bool] = True

    def select(
        self, tokens: tokenprune.VisualTokens, scores: Tensor | None, keep: int
    ) -> tokenprune.Selection:
        """Return `keep` tokens; without scores all count the same."""
        features = tokens.features if tokens.is_batch else tokens.features.unsqueeze(0)
        relevance = features.new_ones(features.shape[:2]) if scores is None else scores
        order = largest_volume(features, relevance.view(features.shape[:2]), keep)
        return tokenprune.Selection.from_order(order if tokens.is_batch else order.squeeze(0))


def largest_volume(features: Tensor, relevance: Tensor, keep: int) -> Tensor:
    """Greedy MAP of the process with kernel diag(r) cos(Z, Z) diag(r), by a growing Cholesky factor.

    Features (B, N, D) and relevance (B, N) give (B, keep) slots in the order they were picked. Where no token
    adds volume any more (more picks than dimensions), the most relevant of the rest follow.
    """
    b, n, _ = features.shape
    precise = torch.float32 if features.device.type == "mps" else torch.float64
    similarity, batch = Similarity(features), torch.arange(b, device=features.device)
    r = relevance.to(precise).clamp(min=0)
    volume = whole = r.square()  # squared height of each token over what is chosen
    factor = torch.zeros(b, keep, n, dtype=precise, device=features.device)
    flat = -1 / (whole + torch.finfo(precise).tiny)  # below 0, in order of relevance however small
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
    """Deliver the selector."""
    return [DppSelector]
