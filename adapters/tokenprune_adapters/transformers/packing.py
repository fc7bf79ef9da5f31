# SPDX-License-Identifier: Apache-2.0
"""Packed sequences: several sequences in one row of the batch, separated by restarting positions.

Without a mask and without a cache (padding-free training), transformers starts a new sequence at each token
whose position does not follow its predecessor's; a sequence does not attend to those before it. The kept rows
are therefore numbered from 0 in each sequence, which separates them in the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sequence_numbers(positions: Tensor | None, batch: int) -> Tensor | None:
    """Index of the packed sequence of each token, (B, L); None if each row is one sequence.

    `positions` (1 or B, L), or (4, B, L) with text positions before the three axes; three axes alone do not
    separate sequences.
    """
    text = text_row(positions)
    if text is None or text.shape[1] == 1:
        return None
    begins = text.diff(dim=1) != 1
    if not bool(begins.any()):
        return None
    return torch.nn.functional.pad(begins.cumsum(1), (1, 0)).expand(batch, -1)


def text_row(positions: Tensor | None) -> Tensor | None:
    """The text positions, from which masks are made, (1 or B, L); None if there are none."""
    if positions is None or positions.ndim == 2:
        return positions
    return positions[0] if positions.shape[0] == 4 else None


def numbering(sequences: Tensor) -> Tensor:
    """Positions that restart at 0 in each sequence, (B, P), from sequence indices (B, P)."""
    places = torch.arange(sequences.shape[1], device=sequences.device).expand_as(sequences)
    begins = torch.nn.functional.pad(sequences.diff(dim=1) != 0, (1, 0), value=True)
    return places - _held(places, begins)


def restarts(positions: Tensor | None, real: Tensor | None) -> Tensor | None:
    """Mark where positions decrease, padding excluded, (1 or B, L); None if no positions were passed.

    `positions` (1 or B, L), or (axes, B, L); `real` (B, L) is False for padding, None if there is none.
    """
    if positions is None:
        return None
    first = positions if positions.ndim == 2 else positions[0]
    falls = torch.nn.functional.pad(first.diff(dim=1) < 0, (1, 0))
    return falls if real is None else falls & real.to(falls.device)


def counted_anew(counts: Tensor, begins: Tensor | None) -> Tensor:
    """Restart running counts (B, L) at each token marked in `begins` (1 or B, L)."""
    if begins is None:
        return counts
    before = torch.nn.functional.pad(counts[:, :-1], (1, 0))
    return counts - _held(before, begins.to(counts.device))


def _held(values: Tensor, where: Tensor) -> Tensor:
    """Forward-fill: the value at the latest position marked in `where`, 0 before the first, (B, L)."""
    places = torch.arange(values.shape[1], device=values.device).expand_as(values)
    latest = torch.where(where, places, -1).cummax(1).values
    return torch.where(latest >= 0, values.gather(1, latest.clamp(min=0)), 0)
