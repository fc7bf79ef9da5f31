# SPDX-License-Identifier: Apache-2.0
"""The state of one language-model call, and what can be read off its arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from . import stock
from .calls import LanguageCall
from .plan import RowPlan, take
from .pruned_layer import PrunedLayer, stored_length
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

    `kv` is its key-value cache, `caching` whether one was asked for (None: not said). `real` (B, L) marks new
    tokens that are no padding, `past` (B, S) the same for what an unpruned cache already stores; None: all.
    `stored` counts each cache layer's slots before the call. `front` is the cut before the language model,
    `stages` those before decoder layers, over the rows that entered it, `due` the layers before which rows
    are to be dropped. `positions` are what its rotary embedding is to see or has seen, `rotates` says that it
    was called.
    """

    n_new: int
    kv: Any = None
    caching: bool | None = None
    real: Tensor | None = None
    past: Tensor | None = None
    stored: list[int] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    front: Stage | None = None
    entered: Tensor | None = None
    entered_real: Tensor | None = None
    positions: Tensor | None = None
    choice: RowChoice | None = None
    due: frozenset[int] = frozenset()
    rotates: bool = False
    stages: dict[int, Stage] = field(default_factory=dict)
    taps: dict[int, tuple[Tensor, Tensor, float | None]] = field(default_factory=dict)
    masks: dict[Any, Any] = field(default_factory=dict)
    rotated: dict[Any, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def read(cls, language: LanguageCall) -> Call:
        """Read a call off the language model's arguments."""
        assert language.embeds is not None
        call = cls(language.embeds.shape[1], language.kv, language.caching)
        if call.n_new > 1:  # a decoding step needs none of this, and must not wait for a device
            call.stored = [stored_length(layer) for layer in stock.layers_of(call.kv)]
            stored = call.stored_at(0)
            call.real = _tokens(language.mask, slice(stored, stored + call.n_new), slice(-call.n_new, None))
            if stored and not isinstance(call.layer(0), PrunedLayer):
                call.past = _tokens(language.mask, slice(stored))
        call.entered, call.entered_real = language.embeds, call.real
        return call

    def hides(self, image: Image) -> bool:
        """Whether the caller masked out tokens of an image: it stays as it is, and they stay hidden."""
        return self.real is not None and not bool(self.real[image.span.row, image.slots].all())

    def layer(self, index: int) -> Any:
        """One layer of the cache, None without it."""
        layers = stock.layers_of(self.kv)
        return layers[index] if index < len(layers) else None

    def stored_at(self, index: int) -> int:
        """Slots a cache layer had in use before the call."""
        return self.stored[index] if index < len(self.stored) else 0

    def stage(self, layer: int) -> Stage | None:
        """The decoder cut in force at a layer."""
        before = [boundary for boundary in self.stages if boundary <= layer]
        return self.stages[max(before)] if before else None

    def dropped(self, layer: int) -> int:
        """Tokens of this call a layer does not get."""
        stages = (self.front, self.stage(layer))
        return sum(stage.plan.dropped for stage in stages if stage is not None)

    def valid(self, layer: int) -> Tensor | None:
        """Which rows a layer gets are no padding; None: all."""
        stage = self.stage(layer)
        return self.entered_real if stage is None else stage.plan.valid

    def shift(self, layer: int) -> Tensor | None:
        """By how much a layer's later positions are closed up, (B, 1)."""
        shifts = [stage.shift for stage in (self.front, self.stage(layer)) if stage is not None]
        there = [shift for shift in shifts if shift is not None]
        return torch.stack(there).sum(0) if there else None

    @property
    def seen(self) -> int:
        """Tokens the cache has seen before this call."""
        return 0 if self.kv is None else int(stock.seen(self.kv))

    def positions_of(self, embeds: Tensor, passed: Tensor | None) -> Tensor:
        """Positions of the new tokens, (1 or B, L) or (3, B, L): the caller's, or those that follow."""
        if passed is None:
            return (torch.arange(self.n_new, device=embeds.device) + self.seen)[None]
        return (
            passed[1:] if passed.ndim == 3 and passed.shape[0] == 4 else passed
        )  # a text row before M-RoPE's

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
    mask = stock.one_mask(mask)
    if not isinstance(mask, Tensor):
        return None
    if mask.ndim == 4:  # prepared by the model, or by generate for a static cache: what the last token sees
        row = mask[:, 0, -1, columns]
        there = row if row.dtype == torch.bool else row == 0
    else:
        there = mask[:, columns if flat_columns is None else flat_columns].bool()
    return None if bool(there.all()) else there
