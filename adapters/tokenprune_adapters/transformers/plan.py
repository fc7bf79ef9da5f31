# SPDX-License-Identifier: Apache-2.0
"""Plan which tokens of a batch are kept, and how to expand them back: B rows, L tokens before, P after."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.gather import take


@dataclass(frozen=True)
class RowPlan:
    """Gather indices of the kept tokens; rows are right-aligned to the longest, shorter ones padded.

    `index` (B, P): the token that each output slot comes from. `ascending` (B, P): the same tokens sorted,
    where contiguous positions are read (the output order may differ after a merge). `valid` (B, P): False
    for padding, None if there is none. `slot` (B, L): the output slot of each token, or of the nearest kept
    token before it.
    """

    index: Tensor
    ascending: Tensor
    valid: Tensor | None
    slot: Tensor

    @property
    def dropped(self) -> int:
        """Number of tokens dropped from each row, L - P."""
        return self.slot.shape[1] - self.index.shape[1]

    @property
    def tail(self) -> int:
        """Number of trailing tokens that every row keeps."""
        kept = (self.slot[:, 1:] > self.slot[:, :-1]).all(0)
        return int(kept.flip(0).long().cumprod(0).sum())

    def gather(self, values: Tensor, padding: int) -> Tensor:
        """Gather values (B, L) into the output slots (B, P); `padding` fills padded slots."""
        gathered = take(values, self.index)
        return gathered if self.valid is None else gathered.masked_fill(~self.valid, padding)

    @classmethod
    def make(cls, keep: Tensor, rank: Tensor | None = None) -> RowPlan:
        """Plan from `keep` (B, L) bool; `rank` (B, L) orders the kept tokens, None leaves their order."""
        counts = keep.sum(1)
        width = int(counts.max())
        length = keep.shape[1]
        places = torch.arange(length, device=keep.device).expand_as(keep)
        ascending = _kept_last(keep, places, width)
        index = ascending if rank is None else _kept_last(keep, rank, width)
        valid = keep.gather(1, index)
        columns = torch.arange(width, device=keep.device).expand_as(index)
        # padded slots point at dropped tokens, which must not be assigned to them
        slot_of = torch.full((len(keep), length + 1), -1, device=keep.device)
        slot_of.scatter_(1, torch.where(valid, index, length), columns)
        slot_of = slot_of[:, :length]
        last = torch.where(slot_of >= 0, places, -1).cummax(1).values  # nearest kept token at or before
        first = (width - counts).unsqueeze(1)
        slot = torch.where(last >= 0, slot_of.gather(1, last.clamp(min=0)), first.clamp(max=width - 1))
        return cls(index, ascending, None if bool(valid.all()) else valid, slot)


def _kept_last(keep: Tensor, order: Tensor, width: int) -> Tensor:
    """Sort tokens so that the kept ones come last, by `order`, and return the last `width`."""
    key = torch.where(keep, order, order - keep.shape[1])
    return key.argsort(dim=1, stable=True)[:, keep.shape[1] - width :]
