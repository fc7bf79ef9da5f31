# SPDX-License-Identifier: Apache-2.0
"""The greedy loop of max-min selection: one kernel launch on NVIDIA GPUs, numpy on CPUs, else PyTorch."""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor

from .max_min_numpy import pick_numpy
from .similarity import Similarity, inside


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def can_fuse(device: torch.device | str) -> bool:
    """Whether the Triton kernel runs on a device: an NVIDIA GPU, with triton installed."""
    return torch.device(device).type == "cuda" and torch.version.cuda is not None and _has_triton()


def pick(
    similarity: Similarity, picks: int, weights: Tensor | None, start: Tensor, counts: Tensor | None
) -> Tensor:
    """Pick the token with the largest weighted distance to its nearest chosen one, `picks` times.

    Parameters
    ----------
    similarity
        Similarities of (B, N, D) rows.
    weights
        (B, N) or None.
    start
        (B, C) slots that are already chosen, C at least 1.
    counts
        (B,) tokens of each image, or None for N; rows beyond are padding.

    Returns
    -------
    Tensor
        (B, picks) slots, -1 where an image has no token left.
    """
    b, n, _ = similarity.unit.shape
    device = similarity.unit.device
    if similarity.matrix is not None and can_fuse(device):
        from . import max_min_triton

        lengths = torch.full((b,), n, device=device) if counts is None else counts
        return max_min_triton.pick_triton(similarity.matrix, picks, weights, start, lengths)
    loop = pick_numpy if device.type == "cpu" else pick_torch
    return loop(similarity, picks, weights, start, counts)


def pick_torch(
    similarity: Similarity, picks: int, weights: Tensor | None, start: Tensor, counts: Tensor | None
) -> Tensor:
    """Implement `pick` in PyTorch on any device, for all images of a stack in lockstep."""
    b, n, _ = similarity.unit.shape
    device = similarity.unit.device
    rows = torch.arange(b, device=device)
    nearest = torch.full((b, n), torch.inf, dtype=torch.float32, device=device)
    gain = torch.empty_like(nearest)
    free = torch.zeros_like(nearest)  # -inf where taken
    if counts is not None:
        free.masked_fill_(~inside(counts, n), -torch.inf)

    def take(slots: Tensor) -> None:
        distance = (1 - similarity.column(slots)).clamp_(min=0)
        torch.minimum(nearest, distance, out=nearest)
        free[rows, slots] = -torch.inf

    for slots in start.unbind(-1):
        take(slots)
    order = torch.empty((b, picks), dtype=torch.long, device=device)
    for step in range(picks):
        if weights is None:
            torch.add(nearest, free, out=gain)
        else:
            torch.mul(nearest, weights, out=gain).add_(free)
        order[:, step] = gain.argmax(-1)
        take(order[:, step])
    if counts is not None:
        steps = torch.arange(start.shape[-1], start.shape[-1] + picks, device=device)
        order.masked_fill_(steps >= counts.unsqueeze(-1), -1)
    return order
