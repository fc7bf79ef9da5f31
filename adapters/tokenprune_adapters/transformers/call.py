# SPDX-License-Identifier: Apache-2.0
"""The state of one language-model call, and what can be read off its arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from .cache import PrunedLayer, stored_length
from .plan import RowPlan, take
from .rows import Image, RowChoice

P = ParamSpec("P")
T = TypeVar("T")


def untraced(function: Callable[P, T]) -> Callable[P, T]:
    """Keep a compiler out of what chooses: it is Python on data, and would be traced anew for every image."""
    plain: Callable[P, T] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return plain


@dataclass
class Stage:
    """What is left from one boundary on: a plan over the rows that entered the language model.

    `gone` (B, P) counts dropped rows at or before each, where positions are closed up; else None.
    """

    plan: RowPlan
    gone: Tensor | None

    def positions(self, positions: Tensor) -> Tensor:
        """Positions (..., B or 1, P) of the rows that stay."""
        axis = positions.ndim - 1
        if self.gone is None:
            return take(positions, self.plan.index, axis)
        return take(positions - self.gone, self.plan.ascending, axis)

    @property
    def shift(self) -> Tensor | None:
        """By how much each row's later positions are closed up, (B, 1)."""
        return None if self.gone is None else self.gone[:, -1:]


@dataclass
class Call:
    """One forward of the language model: B rows, L new tokens.

    `real` (B, L) marks new tokens that are no padding, `past` (B, S) the same for what an unpruned cache
    already stores; None: all. `stored` counts each cache layer's slots before the call. `front` is the cut
    before the language model, `stages` those before decoder layers, over the rows that entered it;
    `positions` are what its rotary embedding is to see or has seen.
    """

    n_new: int
    cache: Any = None
    real: Tensor | None = None
    past: Tensor | None = None
    stored: list[int] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    front: Stage | None = None
    entered: Tensor | None = None
    entered_real: Tensor | None = None
    positions: Tensor | None = None
    choice: RowChoice | None = None
    stages: dict[int, Stage] = field(default_factory=dict)
    taps: dict[int, tuple[Tensor, Tensor, float | None]] = field(default_factory=dict)
    masks: dict[Any, Any] = field(default_factory=dict)
    rotated: dict[Any, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def read(cls, embeds: Tensor, kwargs: dict[str, Any]) -> Call:
        """Read a call off the language model's arguments."""
        call = cls(embeds.shape[1], kwargs.get("past_key_values"))
        mask = kwargs.get("attention_mask")
        if call.n_new > 1:  # a decoding step needs none of this, and must not wait for a device
            if call.cache is not None:
                call.stored = [stored_length(layer) for layer in call.cache.layers]
            stored = call.stored_at(0)
            call.real = _tokens(mask, slice(stored, stored + call.n_new), slice(-call.n_new, None))
            if call.stored_at(0) and not isinstance(call.layer(0), PrunedLayer):
                call.past = _tokens(mask, slice(call.stored_at(0)))
        call.entered, call.entered_real = embeds, call.real
        return call

    def hides(self, image: Image) -> bool:
        """Whether the caller masked out tokens of an image: it stays as it is, and they stay hidden."""
        return self.real is not None and not bool(self.real[image.span.row, image.slots].all())

    def layer(self, index: int) -> Any:
        """One layer of the cache, None without it."""
        return self.cache.layers[index] if self.cache is not None and index < len(self.cache.layers) else None

    def stored_at(self, index: int) -> int:
        """Slots a cache layer had in use before the call."""
        return self.stored[index] if index < len(self.stored) else 0

    def stage(self, layer: int) -> Stage | None:
        """The decoder cut in force at a layer."""
        before = [boundary for boundary in self.stages if boundary <= layer]
        return self.stages[max(before)] if before else None

    def dropped(self, layer: int) -> int:
        """Tokens of this call a layer does not get."""
        stage = self.stage(layer)
        return sum(one.plan.dropped for one in (self.front, stage) if one is not None)

    def valid(self, layer: int) -> Tensor | None:
        """Which rows a layer gets are no padding; None: all."""
        stage = self.stage(layer)
        return self.entered_real if stage is None else stage.plan.valid

    def shift(self, layer: int) -> Tensor | None:
        """By how much a layer's later positions are closed up, (B, 1)."""
        shifts = [one.shift for one in (self.front, self.stage(layer)) if one is not None]
        there = [shift for shift in shifts if shift is not None]
        return torch.stack(there).sum(0) if there else None

    @property
    def seen(self) -> int:
        """Tokens the cache has seen before this call."""
        return 0 if self.cache is None else int(self.cache.get_seq_length())

    def position_ids(self, embeds: Tensor, given: Tensor | None) -> Tensor:
        """Positions of the new tokens, (1 or B, L) or (3, B, L): the caller's, or those that follow."""
        if given is None:
            return (torch.arange(self.n_new, device=embeds.device) + self.seen)[None]
        return given[1:] if given.ndim == 3 and given.shape[0] == 4 else given  # a text row before M-RoPE's

    def mask_over_past(self, layer: int, n_new: int, new: Tensor | None) -> Tensor | None:
        """Two-dimensional mask over an unpruned past and `n_new` rows, `new` (B, n_new) marking padding."""
        n_past = self.stored_at(layer)
        if not n_past or (new is None and self.past is None):
            return new
        like = new if new is not None else self.past
        assert like is not None
        past = self.past if self.past is not None else like.new_ones(len(like), n_past)
        return torch.cat([past, new if new is not None else like.new_ones(len(like), n_new)], 1)

    def widen(self, rows: Tensor, layer: int) -> Tensor:
        """Bring rows as a layer has them to the prompt's length; dropped tokens repeat the one before."""
        for stage in (self.stage(layer), self.front):
            if stage is not None:
                rows = take(rows, stage.plan.slot)
        return rows


def _tokens(mask: Any, columns: slice, flat_columns: slice | None = None) -> Tensor | None:
    """Which tokens are no padding, (B, n), read off any mask transformers hands over; None: all.

    `columns` of a four-dimensional mask, `flat_columns` of a two-dimensional one where it differs.
    """
    if isinstance(mask, dict):
        mask = mask.get("full_attention")
    if not isinstance(mask, Tensor):
        return None
    if mask.ndim == 4:  # prepared by the model, or by generate for a static cache: what the last token sees
        row = mask[:, 0, -1, columns]
        there = row if row.dtype == torch.bool else row == 0
    else:
        there = mask[:, columns if flat_columns is None else flat_columns].bool()
    return None if bool(there.all()) else there
