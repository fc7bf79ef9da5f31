# SPDX-License-Identifier: Apache-2.0
"""The state of one language-model call, and what can be read off its arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from . import stock
from .calls import LanguageCall, ModelCall
from .masks import SeenTokens, all_seen
from .packing import numbering, restarts, sequence_numbers
from .plan import RowPlan, take
from .pruned_layer import PrunedLayer, stored_length
from .rows import Image, RowChoice

NOT_TRACED = (
    "which tokens of a pruned model stay depends on the picture, and its calls take turns, so that its "
    "forward is compiled in pieces: use torch.compile(..., fullgraph=False), or remove() the pruning"
)
P = ParamSpec("P")
T = TypeVar("T")


def untraced(function: Callable[P, T]) -> Callable[P, T]:
    """Keep a compiler out of what chooses: it is Python on data, and would be traced anew for every image."""
    plain: Callable[P, T] = torch.compiler.disable(function, reason=NOT_TRACED)  # type: ignore[no-untyped-call]
    return plain


@dataclass
class RemainingRows:
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

    `kv` is its key-value cache, `caching` whether one was asked for (None: not said). `seen` is what the mask
    says of the tokens so far, None: all are seen. `real` (B, L) marks new tokens that are no padding, `past`
    (B, S) the same for what an unpruned cache already stores; None: all. `sequences` (B, L) numbers the
    packed sequences of a row, None: there is one; `restarts` (B, L) marks where positions fall back,
    `answers` (B, L) which tokens are to be predicted, None: not said. `stored` counts each cache layer's
    slots before the call. `front` is what the cut before the language model left, `remaining` what those
    before decoder layers left of the rows that entered it, `due` the layers before which rows are to be
    dropped. `positions` are what its rotary embedding is to see or has seen, `rotates` says that it was
    called. `taps` has the queries, keys and scaling of layers, `look` adds those of the layer before which
    rows are being dropped.
    """

    n_new: int
    kv: Any = None
    caching: bool | None = None
    seen: SeenTokens | None = None
    real: Tensor | None = None
    past: Tensor | None = None
    sequences: Tensor | None = None
    restarts: Tensor | None = None
    answers: Tensor | None = None
    stored: list[int] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    front: RemainingRows | None = None
    entered: Tensor | None = None
    entered_real: Tensor | None = None
    entered_sequences: Tensor | None = None
    positions: Tensor | None = None
    choice: RowChoice | None = None
    due: frozenset[int] = frozenset()
    rotates: bool = False
    remaining: dict[int, RemainingRows] = field(default_factory=dict)
    look: Callable[[], None] | None = None
    taps: dict[int, tuple[Tensor, Tensor, float | None]] = field(default_factory=dict)
    masks: dict[Any, Any] = field(default_factory=dict)
    numbers: dict[Any, Tensor] = field(default_factory=dict)
    rotated: dict[Any, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def read(
        cls, language: LanguageCall, brought: ModelCall | None, packs: bool, answers: Tensor | None
    ) -> Call:
        """Read a call off the language model's arguments.

        Parameters
        ----------
        brought
            The call of the model around it, where that brings images.
        packs
            Whether positions that start again begin another sequence.
        answers
            (B, L) the tokens that are to be predicted, as the caller passed them; None: not said.
        """
        embeds = language.embeds
        assert embeds is not None
        call = cls(embeds.shape[1], language.kv, language.caching)
        first = call.layer(0)
        if brought is not None and brought.mask is None and (packs or _is_made(language.mask, call.kv)):
            call.sequences = sequence_numbers(language.positions, len(embeds))
        if call.sequences is None:  # else it is the model's own mask, if any, and says the same
            n_dropped = first.dropped if isinstance(first, PrunedLayer) else 0
            call.seen = SeenTokens.read(language.mask, n_dropped)
        if call.n_new > 1:  # a decoding step needs none of this, and must not wait for a device
            call.stored = [stored_length(layer) for layer in stock.layers_of(call.kv)]
            if call.seen is not None:
                call.real = all_seen(call.seen.slice(call.n_seen, call.n_new))
                if call.stored_at(0) and not isinstance(first, PrunedLayer):
                    call.past = all_seen(call.seen.slice(0, call.stored_at(0)))
        if brought is not None:
            call.answers = None if answers is None else answers != stock.NO_ANSWER
            call.restarts = restarts(language.positions, call.real)
        call.entered, call.entered_real, call.entered_sequences = embeds, call.real, call.sequences
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

    def remaining_at(self, layer: int) -> RemainingRows | None:
        """What the last decoder cut at or before a layer left; None: there is none."""
        before = [boundary for boundary in self.remaining if boundary <= layer]
        return self.remaining[max(before)] if before else None

    def dropped(self, layer: int) -> int:
        """Tokens of this call a layer does not get."""
        cuts = (self.front, self.remaining_at(layer))
        return sum(cut.plan.dropped for cut in cuts if cut is not None)

    def valid(self, layer: int) -> Tensor | None:
        """Which rows a layer gets are no padding; None: all."""
        remaining = self.remaining_at(layer)
        return self.entered_real if remaining is None else remaining.plan.valid

    def shift(self, layer: int) -> Tensor | None:
        """By how much a layer's later positions are closed up, (B, 1)."""
        shifts = [cut.shift for cut in (self.front, self.remaining_at(layer)) if cut is not None]
        there = [shift for shift in shifts if shift is not None]
        return torch.stack(there).sum(0) if there else None

    def sequence(self, layer: int) -> Tensor | None:
        """Number of the packed sequence of each row a layer gets, (B, P), -1: padding; None: there is one."""
        remaining, numbers = self.remaining_at(layer), self.entered_sequences
        return numbers if remaining is None or numbers is None else remaining.plan.gather(numbers, -1)

    def numbering(self, layer: int) -> Tensor | None:
        """Positions from which masks are made for packed sequences at a layer, (B, P); None: there is one."""
        sequence = self.sequence(layer)
        return None if sequence is None else numbering(sequence)

    @property
    def n_seen(self) -> int:
        """Tokens the cache has seen before this call."""
        return 0 if self.kv is None else int(stock.seen(self.kv))

    def positions_of(self, embeds: Tensor, passed: Tensor | None) -> Tensor:
        """Positions of the new tokens, (1 or B, L) or (3, B, L): the caller's, or those that follow."""
        if passed is None:
            return (torch.arange(self.n_new, device=embeds.device) + self.n_seen)[None]
        return (
            passed[1:] if passed.ndim == 3 and passed.shape[0] == 4 else passed
        )  # a text row before M-RoPE's

    def mask_of_rows(self, layer: int, n_new: int, valid: Tensor | None) -> Tensor | None:
        """Two-dimensional mask over what a layer stores and `n_new` rows; None: all are seen.

        `valid` (B, n_new) marks padding among these.
        """
        cached, n_past = self.layer(layer), self.stored_at(layer)
        if isinstance(cached, PrunedLayer):
            return cached.mask_of_rows(n_new, valid, self.seen)
        if not n_past or (valid is None and self.past is None):
            return valid
        like = valid if valid is not None else self.past
        assert like is not None
        past = self.past if self.past is not None else like.new_ones(len(like), n_past)
        return torch.cat([past, valid if valid is not None else like.new_ones(len(like), n_new)], 1)

    def tokens(self, index: int, cached: PrunedLayer) -> Tensor:
        """Numbers of all tokens a cut layer stores after this call, (B, S), before that is recorded."""
        remaining, before = self.remaining_at(index), self.stored_at(index)
        key = id(cached.tokens), before, cached.dropped, id(remaining)  # the same for many layers
        if key not in self.numbers:
            plans = [cut.plan.index for cut in (self.front, remaining) if cut is not None]
            rows = plans[0] if len(plans) == 1 else take(plans[0], plans[1])
            past = cached.tokens_of(before, rows.device).expand(len(rows), -1)
            self.numbers[key] = torch.cat([past, rows + before + cached.dropped], 1)
        return self.numbers[key]

    def widen(self, rows: Tensor, layer: int) -> Tensor:
        """Bring rows as a layer has them to the prompt's length; dropped tokens repeat the one before."""
        for remaining in (self.remaining_at(layer), self.front):
            if remaining is not None:
                rows = take(rows, remaining.plan.slot)
        return rows


def _is_made(mask: Any, kv: Any) -> bool:
    """Whether a model made its own mask before there was a cache: positions that start again told in it."""
    return kv is None and isinstance(stock.one_mask(mask), Tensor)
