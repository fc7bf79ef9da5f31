# SPDX-License-Identifier: Apache-2.0
"""Which rows of a batch go on, and the way back. B rows, L tokens before, P after."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowPlan:
    """Rows with unequal counts are right-aligned to the longest; what is left of a shorter row is padding.

    `index` (B, P): the token each output slot comes from. `ascending` (B, P): the same slots sorted, which is
    where contiguous positions are read (an output order may differ when rows were merged). `valid` (B, P):
    False for padding, None when there is none. `slot` (B, L): the output slot that holds each token, or the
    nearest one before it.
    """

    index: Tensor
    ascending: Tensor
    valid: Tensor | None
    slot: Tensor

    @property
    def dropped(self) -> int:
        """Tokens left out of each row, L - P."""
        return self.slot.shape[1] - self.index.shape[1]

    @property
    def tail(self) -> int:
        """Tokens at the end that are kept in every row."""
        kept = (self.slot[:, 1:] > self.slot[:, :-1]).all(0)
        return int(kept.flip(0).long().cumprod(0).sum())

    def gather(self, values: Tensor, padding: int) -> Tensor:
        """Values (B, L) of the tokens in the output slots, (B, P)."""
        gathered = take(values, self.index)
        return gathered if self.valid is None else gathered.masked_fill(~self.valid, padding)

    @classmethod
    def make(cls, keep: Tensor, rank: Tensor | None = None) -> RowPlan:
        """Plan from `keep` (B, L) bool; `rank` (B, L) orders the kept tokens, None: as they stand."""
        counts = keep.sum(1)
        width = int(counts.max())
        length = keep.shape[1]
        places = torch.arange(length, device=keep.device).expand_as(keep)
        ascending = _kept_last(keep, places, width)
        index = ascending if rank is None else _kept_last(keep, rank, width)
        valid = keep.gather(1, index)
        columns = torch.arange(width, device=keep.device).expand_as(index)
        # pads point at dropped tokens; they must not claim a slot
        at = torch.full((len(keep), length + 1), -1, device=keep.device)
        at.scatter_(1, torch.where(valid, index, length), columns)
        at = at[:, :length]
        last = torch.where(at >= 0, places, -1).cummax(1).values  # nearest kept token at or before
        first = (width - counts).unsqueeze(1)
        slot = torch.where(last >= 0, at.gather(1, last.clamp(min=0)), first.clamp(max=width - 1))
        return cls(index, ascending, None if bool(valid.all()) else valid, slot)


def _kept_last(keep: Tensor, order: Tensor, width: int) -> Tensor:
    """Return tokens sorted so that the kept ones come last, among themselves by `order`; the last `width`."""
    key = torch.where(keep, order, order - keep.shape[1])
    return key.argsort(dim=1, stable=True)[:, keep.shape[1] - width :]


def take(x: Tensor, index: Tensor, axis: int = 1) -> Tensor:
    """Gather `x` along its sequence axis with `index` (B, P); the batch axis just before may be 1."""
    index = index.to(x.device)
    if x.shape[axis - 1] == 1 and len(index) > 1:
        x = x.expand(*x.shape[: axis - 1], len(index), *x.shape[axis:])
    shape = [1] * x.ndim
    shape[axis - 1], shape[axis] = index.shape
    full = list(x.shape)
    full[axis] = index.shape[1]
    return x.gather(axis, index.view(shape).expand(full))
