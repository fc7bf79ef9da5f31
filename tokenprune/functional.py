# SPDX-License-Identifier: Apache-2.0
"""Tensor functions scorers and selectors share. B images, N tokens, D width, K kept; no model anywhere."""

from __future__ import annotations

import torch
from torch import Tensor

GRAM_LIMIT = 8192  # tokens up to which all pairwise similarities are held at once (N^2 floats)
FLAT = 1e-4  # relative spread below which scores count as one value


def unit_rows(features: Tensor) -> Tensor:
    """Scale rows (..., N, D) to unit length, in float32; a zero row stays zero."""
    rows: Tensor = torch.nn.functional.normalize(features.float(), dim=-1)
    return rows


def flatten_equal(scores: Tensor) -> Tensor:
    """Return scores (..., N) made exactly equal where they spread by less than 1e-4 of the largest.

    A linear projector has the same Jacobian everywhere; what differs then is rounding, and min-max
    normalisation would turn it into an opinion.
    """
    low, high = scores.amin(-1, keepdim=True), scores.amax(-1, keepdim=True)
    return torch.where(high - low <= FLAT * high.abs(), high.expand_as(scores), scores)


def min_max(scores: Tensor) -> Tensor:
    """Normalise scores (..., N) to [0, 1] in float32; constant scores become all ones."""
    scores = scores.float()
    low, high = scores.amin(-1, keepdim=True), scores.amax(-1, keepdim=True)
    weights = (scores - low) / (high - low + 1e-8)
    return torch.where(high == low, torch.ones_like(weights), weights)


def top_slots(scores: Tensor, keep: int) -> Tensor:
    """Slots of the `keep` highest scores (..., N) -> (..., keep), highest first, ties to the lowest slot."""
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :keep]


def even_slots(n: int, keep: int, device: torch.device | None = None) -> Tensor:
    """Return `keep` of `n` slots, evenly spaced: the middles of `keep` equal stretches. Shape (keep,)."""
    return (2 * torch.arange(keep, device=device) + 1) * n // (2 * keep)


class Similarity:
    """Cosine similarities of rows (B, N, D), a column at a time.

    Held as one (B, N, N) matrix up to `GRAM_LIMIT` tokens (one fast matrix product), beyond that computed
    column by column.
    """

    def __init__(self, features: Tensor) -> None:
        self.unit = unit_rows(features)
        n = self.unit.shape[-2]
        self.matrix = self.unit @ self.unit.mT if n <= GRAM_LIMIT else None

    def column(self, slots: Tensor) -> Tensor:
        """Similarities of all tokens to one slot an image, (B,) -> (B, N)."""
        rows = torch.arange(len(slots), device=slots.device)
        if self.matrix is not None:
            return self.matrix[rows, slots]
        return (self.unit @ self.unit[rows, slots].unsqueeze(-1)).squeeze(-1)

    def most_isolated(self) -> Tensor:
        """Return the slot farthest from its nearest neighbour, (B,)."""
        n = self.unit.shape[-2]
        nearest = []
        for start in range(0, n, GRAM_LIMIT):
            stop = min(n, start + GRAM_LIMIT)
            block = (self.unit[:, start:stop] @ self.unit.mT) if self.matrix is None else self.matrix.clone()
            own = torch.arange(stop - start, device=block.device)
            block[:, own, own + start] = -torch.inf
            nearest.append(block.amax(-1))
        return torch.cat(nearest, -1).argmin(-1)


@torch.no_grad()
def max_min_diversity(
    features: Tensor, keep: int, weights: Tensor | None = None, chosen: Tensor | None = None
) -> Tensor:
    """Greedy max-min selection: each pick is the token whose nearest chosen token is farthest away.

    Distances are 1 - cosine; with `weights` each distance is multiplied by the token's weight. A running
    minimum makes the loop O(K N). Ties go to the lowest slot; a chosen token is never chosen again.

    Parameters
    ----------
    features
        (N, D) or (B, N, D).
    keep
        Picks to make, `chosen` not counted.
    weights
        (N,) or (B, N), non-negative. The first pick is then the heaviest token; without weights it is the
        most isolated one, unless `chosen` is given.
    chosen
        (C,) or (B, C) slots that are chosen already.

    Returns
    -------
    Tensor
        (keep,) or (B, keep) slots in the order they were picked.
    """
    if features.ndim == 2:
        lift = [None if t is None else t.unsqueeze(0) for t in (weights, chosen)]
        return max_min_diversity(features.unsqueeze(0), keep, *lift).squeeze(0)
    similarity = Similarity(features)
    b, n, _ = features.shape
    rows = torch.arange(b, device=features.device)
    nearest = torch.full((b, n), torch.inf, device=features.device)
    gain = torch.empty_like(nearest)
    free = torch.zeros_like(nearest)  # -inf where taken

    def take(slots: Tensor) -> None:
        distance = (1 - similarity.column(slots)).clamp_(min=0)
        torch.minimum(nearest, distance, out=nearest)
        free[rows, slots] = -torch.inf

    order = torch.empty((b, keep), dtype=torch.long, device=features.device)
    if chosen is not None and chosen.shape[-1]:
        for slots in chosen.unbind(-1):
            take(slots)
    elif keep:
        order[:, 0] = similarity.most_isolated() if weights is None else weights.argmax(-1)
        take(order[:, 0])
    started = chosen is None or chosen.shape[-1] == 0
    for step in range(1 if started else 0, keep):
        if weights is None:
            torch.add(nearest, free, out=gain)
        else:
            torch.mul(nearest, weights, out=gain).add_(free)
        order[:, step] = gain.argmax(-1)
        take(order[:, step])
    return order
