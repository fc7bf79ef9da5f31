# SPDX-License-Identifier: Apache-2.0
"""Which tokens of the unpruned sequence a call's attention mask makes visible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenprune import UnsupportedCallError

from . import stock


@dataclass(frozen=True)
class SeenTokens:
    """Which tokens a mask makes visible.

    `flat` (B, S) bool covers the tokens `start` to `start + S - 1` of the unpruned sequence. Nothing is known
    about tokens before `start` or after the end.
    """

    flat: Tensor
    start: int

    @classmethod
    def read(cls, mask: Any, n_dropped: int) -> SeenTokens | None:
        """Read the mask that the language model is passed; None if every token is visible.

        A two-dimensional mask is the caller's, over the whole sequence. A four-dimensional mask was made by
        the model or by `generate`, over what its first layer stores: it lacks the first `n_dropped` columns.
        """
        mask = stock.one_mask(mask)
        if mask is None:
            return None
        if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
            raise UnsupportedCallError(unknown(mask))
        if mask.ndim == 2:
            return cls(mask.bool(), 0)
        last = mask[:, 0, -1]  # the row of the last token
        return cls(last if last.dtype == torch.bool else last == 0, n_dropped)

    def slice(self, first: int, n: int) -> Tensor:
        """Visibility of `n` tokens starting at `first`, (B, n).

        Raises
        ------
        UnsupportedCallError
            If the mask is too short.
        """
        start = first - self.start
        if self.flat.shape[1] < start + n:
            raise UnsupportedCallError(
                f"the attention mask has {self.flat.shape[1]} columns, and the sequence has {start + n} "
                "tokens by now; pass a mask over all cached and new tokens (dropped visual tokens count)"
            )
        return self.flat[:, start : start + n]

    def of(self, tokens: Tensor) -> Tensor:
        """Visibility of tokens by their indices (B, n); True for tokens that the mask does not cover."""
        places = tokens - self.start
        n = self.flat.shape[1]
        flat = self.flat.to(tokens.device)
        seen = flat.gather(1, places.clamp(0, n - 1).expand(len(flat), -1))
        return seen | (places < 0) | (places >= n)


def unknown(mask: Any) -> str:
    """Error message for a mask of an unsupported kind."""
    what = f"tensor of {mask.ndim} dimensions" if isinstance(mask, Tensor) else type(mask).__name__
    return (
        "a pruned model takes a two-dimensional attention mask (1 for a token, 0 for padding); this one is a "
        f"{what}, which does not say who sees whom among the kept rows"
    )


def all_seen(seen: Tensor) -> Tensor | None:
    """Return None for a mask (B, n) that is True everywhere, else the mask; synchronises the device."""
    return None if bool(seen.all()) else seen
