# SPDX-License-Identifier: Apache-2.0
"""What a call's attention mask says of each token of the unpruned sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenprune import UnsupportedCallError

from . import stock


@dataclass(frozen=True)
class SeenTokens:
    """Which tokens a mask lets be seen.

    `flat` (B, S) bool, for tokens number `start` to `start + S - 1` of the sequence, counted from its first
    token and as if nothing had been pruned. Nothing is known of those before `start` or beyond the end.
    """

    flat: Tensor
    start: int

    @classmethod
    def read(cls, mask: Any, n_dropped: int) -> SeenTokens | None:
        """Read it off a mask the language model is passed; None: every token is seen.

        A mask of two dimensions is the caller's, over the whole sequence. One of four was made by the model
        or by `generate`, over what its first layer stores: `n_dropped` tokens fewer, counted from the front.
        """
        mask = stock.one_mask(mask)
        if mask is None:
            return None
        if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
            raise UnsupportedCallError(unknown(mask))
        if mask.ndim == 2:
            return cls(mask.bool(), 0)
        last = mask[:, 0, -1]  # what the last token sees
        return cls(last if last.dtype == torch.bool else last == 0, n_dropped)

    def slice(self, first: int, n: int) -> Tensor:
        """What is said of `n` tokens from number `first` on, (B, n).

        Raises
        ------
        UnsupportedCallError
            When the mask ends before them.
        """
        start = first - self.start
        if self.flat.shape[1] < start + n:
            raise UnsupportedCallError(
                f"the attention mask has {self.flat.shape[1]} columns, and the sequence has {start + n} "
                "tokens by now; pass a mask over all of them, those in the cache and the new ones (dropped "
                "visual tokens count)"
            )
        return self.flat[:, start : start + n]

    def of(self, tokens: Tensor) -> Tensor:
        """What is said of tokens by their numbers (B, n): True where nothing is known."""
        places = tokens - self.start
        n = self.flat.shape[1]
        flat = self.flat.to(tokens.device)
        seen = flat.gather(1, places.clamp(0, n - 1).expand(len(flat), -1))
        return seen | (places < 0) | (places >= n)


def unknown(mask: Any) -> str:
    """The refusal of a mask of a kind that says nothing about single tokens."""
    what = f"tensor of {mask.ndim} dimensions" if isinstance(mask, Tensor) else type(mask).__name__
    return (
        "a pruned model takes a two-dimensional attention mask (1 for a token, 0 for padding); this one is a "
        f"{what}, which does not say who sees whom among the rows that stay"
    )


def all_seen(seen: Tensor) -> Tensor | None:
    """None in the place of a tensor (B, n) that is True everywhere; waits for the device."""
    return None if bool(seen.all()) else seen
