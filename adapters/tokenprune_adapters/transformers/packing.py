# SPDX-License-Identifier: Apache-2.0
"""Several sequences in one row of the batch, told apart by positions that start again.

Without a mask and without a cache (padding-free training) transformers takes each token whose position does
not follow the one before it for the first of another sequence, which sees nothing of those before it. Rows
that stay are therefore numbered from 0 in each sequence, which says the same.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sequence_numbers(positions: Tensor | None, batch: int) -> Tensor | None:
    """Number of the sequence each token belongs to, (B, L); None where each row is one sequence.

    `positions` (1 or B, L), or (4, B, L) with a row for the text before those of three axes; positions of
    three axes alone do not say it.
    """
    text = text_row(positions)
    if text is None or text.shape[1] == 1:
        return None
    begins = text.diff(dim=1) != 1
    if not bool(begins.any()):
        return None
    return torch.nn.functional.pad(begins.cumsum(1), (1, 0)).expand(batch, -1)


def text_row(positions: Tensor | None) -> Tensor | None:
    """The positions from which masks are made, (1 or B, L); None: there are none."""
    if positions is None or positions.ndim == 2:
        return positions
    return positions[0] if positions.shape[0] == 4 else None


def numbering(sequences: Tensor) -> Tensor:
    """Positions that start again at 0 with each sequence, (B, P), from the number of each row's, (B, P)."""
    places = torch.arange(sequences.shape[1], device=sequences.device).expand_as(sequences)
    begins = torch.nn.functional.pad(sequences.diff(dim=1) != 0, (1, 0), value=True)
    return places - _held(places, begins)


def restarts(positions: Tensor | None, real: Tensor | None) -> Tensor | None:
    """Where positions fall back, (1 or B, L), padding left out; None: nowhere, as they were not passed.

    `positions` (1 or B, L), or (axes, B, L); `real` (B, L) marks tokens that are no padding, None: all.
    """
    if positions is None:
        return None
    first = positions if positions.ndim == 2 else positions[0]
    falls = torch.nn.functional.pad(first.diff(dim=1) < 0, (1, 0))
    return falls if real is None else falls & real.to(falls.device)


def counted_anew(counts: Tensor, begins: Tensor | None) -> Tensor:
    """Running counts (B, L) without what was counted before the latest token where `begins` (1 or B, L)."""
    if begins is None:
        return counts
    before = torch.nn.functional.pad(counts[:, :-1], (1, 0))
    return counts - _held(before, begins.to(counts.device))


def _held(values: Tensor, where: Tensor) -> Tensor:
    """The value at the latest place marked in `where`, 0 before the first, (B, L)."""
    places = torch.arange(values.shape[1], device=values.device).expand_as(values)
    latest = torch.where(where, places, -1).cummax(1).values
    return torch.where(latest >= 0, values.gather(1, latest.clamp(min=0)), 0)
