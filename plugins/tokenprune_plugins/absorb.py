# SPDX-License-Identifier: Apache-2.0
"""Absorb: average every dropped token into the kept token that is most similar to it.

Unlike a new row, the averaged row stands in the place of the kept token, so that it can be used wherever
tokens can be dropped, inside a vision tower too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune
from tokenprune.functional import unit_rows

BLOCK = 2**26  # largest number of similarities in memory at once


@dataclass(frozen=True)
class AbsorbReducer(tokenprune.Reducer):
    """Replaces each kept row by the plain mean of itself and the dropped rows most similar to it.

    The similarity is the cosine of the rows themselves, in float32; ties go to the lowest slot. Kept tokens
    to which no dropped one is most similar are unchanged.
    """

    name: ClassVar[str] = "absorb"
    batched: ClassVar[bool] = True

    def n_selected(self, keep: int, n: int) -> int:
        """Return `keep`: no row is added."""
        return keep

    def reduce(
        self, tokens: tokenprune.VisualTokens, selection: tokenprune.Selection, keep: int
    ) -> tokenprune.Selection:
        """Return the selected slots with the averaged rows."""
        merged_into = most_similar_kept(tokens.features, selection.indices)
        return merged(tokens.features, selection, merged_into)


def merged(
    features: Tensor,
    selection: tokenprune.Selection,
    merged_into: Tensor,
    weights: Tensor | None = None,
) -> tokenprune.Selection:
    """Return `selection` with the mean of the rows merged into each of its slots, in the rows' dtype."""
    rows = merged_means(features, selection.indices, merged_into, weights).to(features.dtype)
    return tokenprune.Selection(
        selection.indices, selection.order, rows, selection.scores, merged_into=merged_into
    )


def most_similar_kept(features: Tensor, kept: Tensor) -> Tensor:
    """Return the kept slot whose row has the largest cosine to each token's; kept tokens have their own.

    Parameters
    ----------
    features
        (N, D) or (B, N, D).
    kept
        (K,) or (B, K) slots in ascending order.

    Returns
    -------
    Tensor
        (N,) or (B, N) slots; ties go to the lowest.
    """
    if features.ndim == 2:
        return most_similar_kept(features.unsqueeze(0), kept.unsqueeze(0)).squeeze(0)
    unit, dropped = unit_rows(features.detach()), others(kept, features.shape[1])
    targets = rows_at(unit, kept).mT  # (B, D, K)
    nearest = [
        products(rows_at(unit, block), targets).argmax(-1) for block in _blocks(dropped, kept.shape[1])
    ]
    slots = torch.arange(features.shape[1], device=kept.device).repeat(len(features), 1)
    return slots.scatter(1, dropped, kept.gather(1, torch.cat(nearest, 1)))


def merged_means(rows: Tensor, kept: Tensor, merged_into: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the weighted mean of the rows merged into each kept slot, (..., K, D) in float32.

    Parameters
    ----------
    rows
        (N, D) or (B, N, D).
    kept
        (K,) or (B, K) slots in ascending order.
    merged_into
        (N,) or (B, N) the kept slot that each row is merged into, as in a selection.
    weights
        (N,) or (B, N) positive weights of the rows; None for a plain mean.
    """
    if weights is None:
        weights = torch.ones_like(merged_into, dtype=torch.float32)
    if rows.ndim == 2:
        rows, kept, merged_into, weights = (t.unsqueeze(0) for t in (rows, kept, merged_into, weights))
        return merged_means(rows, kept, merged_into, weights).squeeze(0)
    column, n_kept = weights.float().unsqueeze(-1), kept.shape[1]
    places = torch.arange(n_kept, device=kept.device).expand_as(kept)
    place = torch.zeros_like(merged_into).scatter(1, kept, places)
    sums, total = rows_at(rows, kept).float() * rows_at(column, kept), rows_at(column, kept)
    for block in _blocks(others(kept, rows.shape[1]), n_kept):
        goal = merged_into.gather(1, block)
        target = torch.nn.functional.one_hot(place.gather(1, goal.clamp(min=0)), n_kept).float()
        share = target * (rows_at(column, block) * (goal >= 0).unsqueeze(-1))  # (B, R, K)
        sums = sums + share.mT @ rows_at(rows, block).float()
        total = total + share.sum(1).unsqueeze(-1)
    return sums / total


def others(kept: Tensor, n: int) -> Tensor:
    """Return the slots of `n` that are not in `kept` (B, K), in ascending order, (B, n - K)."""
    is_kept = torch.zeros(len(kept), n, dtype=torch.uint8, device=kept.device).scatter(1, kept, 1)
    return is_kept.argsort(dim=-1, stable=True)[:, : n - kept.shape[1]]


def rows_at(rows: Tensor, slots: Tensor) -> Tensor:
    """Gather rows (B, N, D) at `slots` (B, K) of each image, (B, K, D)."""
    return rows.gather(1, slots.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))


def products(left: Tensor, right: Tensor) -> Tensor:
    """Multiply matrices image by image, so that a product does not depend on the others of its stack."""
    return torch.stack([one @ other for one, other in zip(left, right, strict=True)])


def _blocks(slots: Tensor, n_kept: int) -> tuple[Tensor, ...]:
    """Split slots (B, R) so that B x R' x K numbers fit into memory."""
    return torch.split(slots, max(1, BLOCK // (len(slots) * n_kept)), dim=1)


@tokenprune.hookimpl
def tokenprune_reducers() -> list[type[tokenprune.Reducer]]:
    """Return the reducer class."""
    return [AbsorbReducer]
