# SPDX-License-Identifier: Apache-2.0
"""Tensor functions for scorers and selectors. B images, N tokens, D width, K kept."""

from __future__ import annotations

import torch
from torch import Tensor

from .max_min import can_fuse, pick
from .precision import float64_device as float64_device
from .similarity import GRAM_LIMIT, inside
from .similarity import Similarity as Similarity
from .similarity import unit_rows as unit_rows

LAZY_FROM = 1024  # number of tokens from which a CPU computes similarities on demand
FLAT = 1e-4  # relative spread up to which scores count as equal
MAP_BYTES = 2**28  # largest block of an attention map in memory, in float32


def mean_attention(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Attention that each key receives, mean over heads and queries, in float32.

    Parameters
    ----------
    query, key
        (H, M, d) and (H, S, d), not empty; every query sees every key.

    Returns
    -------
    Tensor
        (S,), which sums to 1. The attention map is computed in blocks, never as a whole.
    """
    heads, n, _ = query.shape
    received = torch.zeros(key.shape[1], dtype=torch.float32, device=query.device)
    block_size = max(1, MAP_BYTES // (4 * heads * key.shape[1]))
    for block in torch.split(query.float(), block_size, dim=1):
        received += (block @ key.float().mT * scaling).softmax(-1).sum((0, 1))
    return received / (heads * n)


def flatten_equal(scores: Tensor) -> Tensor:
    """Make scores (..., N) exactly equal if their spread is at most 1e-4 of the largest.

    A linear projector has the same Jacobian everywhere. Its scores differ by rounding errors only, which
    min-max normalisation would amplify.
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
    """Return slots of the `keep` highest scores, (..., N) -> (..., keep), highest first, then by slot."""
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :keep]


def even_slots(n: int, keep: int, device: torch.device | None = None) -> Tensor:
    """Return `keep` evenly spaced slots of `n`, (keep,): the midpoints of `keep` equal intervals."""
    return (2 * torch.arange(keep, device=device) + 1) * n // (2 * keep)


def greedy_path(device: torch.device | str, n: int) -> str:
    """Return the implementation of the greedy loop for `n` tokens: `"triton"`, `"numpy"` or `"torch"`."""
    if n <= GRAM_LIMIT and can_fuse(device):
        return "triton"
    return "numpy" if torch.device(device).type == "cpu" else "torch"


@torch.no_grad()
def max_min_diversity(
    features: Tensor,
    keep: int,
    weights: Tensor | None = None,
    chosen: Tensor | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    """Greedy max-min selection: each pick is the token whose nearest chosen token is farthest away.

    Distances are 1 - cosine; with `weights` each distance is multiplied by the token's weight. A running
    minimum makes the loop O(K N). Ties go to the lowest slot; a chosen token is never chosen again. The picks
    for a smaller `keep` are a prefix of those for a larger one.

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
        (C,) or (B, C) slots that are already chosen.
    counts
        (B,) tokens of each image, if they differ; rows beyond are padding and never picked.

    Returns
    -------
    Tensor
        (keep,) or (B, keep) slots in the order they were picked; -1 where an image of `counts` has no token
        left.
    """
    if features.ndim == 2:
        lift = [None if t is None else t.unsqueeze(0) for t in (weights, chosen)]
        return max_min_diversity(features.unsqueeze(0), keep, *lift).squeeze(0)
    b, n, _ = features.shape
    n_fit = max(1, GRAM_LIMIT**2 // (n * n))  # images whose similarities fit into memory together
    if b > n_fit and n <= GRAM_LIMIT:
        optional = [[None] * b if t is None else torch.split(t, n_fit) for t in (weights, chosen, counts)]
        parts = zip(torch.split(features, n_fit), *optional, strict=False)
        return torch.cat([max_min_diversity(part, keep, *rest) for part, *rest in parts])
    needs_all_pairs = weights is None and chosen is None  # to find the most isolated token
    similarity = Similarity(features, needs_all_pairs or n < LAZY_FROM or features.device.type != "cpu")
    start = chosen if chosen is not None and chosen.shape[-1] else None
    if start is not None or not keep:
        first = torch.empty((b, 0), dtype=torch.long, device=features.device)
    elif weights is None:
        first = similarity.most_isolated(counts).unsqueeze(-1)
    else:
        heavy = weights if counts is None else weights.masked_fill(~inside(counts, n), -torch.inf)
        first = heavy.argmax(-1, keepdim=True)
    picks, start = keep - first.shape[-1], first if start is None else start
    return torch.cat([first, pick(similarity, picks, weights, start, counts)], -1)
