# SPDX-License-Identifier: Apache-2.0
"""The state of one language-model call, and what can be read off its arguments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .cache import PrunedLayer, stored_length
from .plan import RowPlan


@dataclass
class Call:
    """One forward of the language model: B rows, L new tokens.

    `real` (B, L) marks new tokens that are no padding, `past` (B, S) the same for what an unpruned cache
    already stores; None: all. `stored` counts each cache layer's slots before the call. `plan` is the cut
    before the language model, `positions` what its rotary embedding shall see, `gone` (B, L) how many dropped
    tokens stand at or before each token where positions are closed up, else None.
    """

    n_new: int
    cache: Any = None
    real: Tensor | None = None
    past: Tensor | None = None
    stored: list[int] = field(default_factory=list)
    plan: RowPlan | None = None
    positions: Tensor | None = None
    gone: Tensor | None = None

    @property
    def shift(self) -> Tensor | None:
        """By how much each row's later positions are closed up, (B, 1)."""
        return None if self.gone is None else self.gone[:, -1:]

    @classmethod
    def read(cls, embeds: Tensor, kwargs: dict[str, Any]) -> Call:
        """Read a call off the language model's arguments."""
        call = cls(embeds.shape[1], kwargs.get("past_key_values"))
        mask = kwargs.get("attention_mask")
        first = call.first_layer
        if call.cache is not None:
            call.stored = [stored_length(layer) for layer in call.cache.layers]
        if call.n_new > 1:
            call.real = _new_tokens(mask, call.n_new, call.stored[0] if call.stored else 0)
            if call.stored and call.stored[0] and not isinstance(first, PrunedLayer):
                if isinstance(mask, Tensor) and mask.ndim == 2:
                    past = mask[:, : call.stored[0]].bool()
                    call.past = None if bool(past.all()) else past
        return call

    @property
    def first_layer(self) -> Any:
        """First layer of the cache, None without one."""
        return self.cache.layers[0] if self.cache is not None and len(self.cache.layers) else None

    @property
    def seen(self) -> int:
        """Tokens the cache has seen before this call."""
        return 0 if self.cache is None else int(self.cache.get_seq_length())

    def position_ids(self, embeds: Tensor, given: Tensor | None) -> Tensor:
        """Positions of the new tokens, (1 or B, L) or (3, B, L): the caller's, or those that follow."""
        if given is None:
            return (torch.arange(self.n_new, device=embeds.device) + self.seen)[None]
        return given[1:] if given.ndim == 3 and given.shape[0] == 4 else given  # a text row before M-RoPE's

    def mask_over_past(self, n_new: int, new: Tensor | None) -> Tensor | None:
        """Two-dimensional mask over an unpruned past and `n_new` tokens, `new` (B, n_new) marking padding."""
        n_past = self.stored[0] if self.stored else 0
        if not n_past or (new is None and self.past is None):
            return new
        like = new if new is not None else self.past
        assert like is not None
        past = self.past if self.past is not None else like.new_ones(len(like), n_past)
        return torch.cat([past, new if new is not None else like.new_ones(len(like), n_new)], 1)


def _new_tokens(mask: Any, n_new: int, stored: int) -> Tensor | None:
    """Which new tokens are no padding, (B, n_new), read off any mask transformers hands over; None: all."""
    if isinstance(mask, dict):
        mask = mask.get("full_attention")
    if not isinstance(mask, Tensor):
        return None
    if mask.ndim == 4:  # prepared by generate for a static cache: what the last token sees
        row = mask[:, 0, -1, stored : stored + n_new]
        new = row if row.dtype == torch.bool else row == 0
    else:
        new = mask[:, -n_new:].bool()
    return None if bool(new.all()) else new
