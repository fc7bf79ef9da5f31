# SPDX-License-Identifier: Apache-2.0
"""The state of one call of the language model, read from its arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from tokenprune.gather import take
from tokenprune.towers.outcome import Outcome

from . import stock
from .calls import LanguageCall, ModelCall
from .masks import SeenTokens, all_seen
from .packing import numbering, restarts, sequence_numbers
from .plan import RowPlan
from .pruned_layer import PrunedLayer, stored_length
from .rows import Image, RowChoice

NOT_TRACED = (
    "which tokens a pruned model keeps depends on the picture, and its calls are serialised, so its forward "
    "is compiled with graph breaks: use torch.compile(..., fullgraph=False), or remove() the pruning"
)
P = ParamSpec("P")
T = TypeVar("T")


def untraced(function: Callable[P, T]) -> Callable[P, T]:
    """Exclude a data-dependent function from torch.compile, which would retrace it for every image."""
    plain: Callable[P, T] = torch.compiler.disable(function, reason=NOT_TRACED)  # type: ignore[no-untyped-call]
    return plain


@dataclass
class RemainingRows:
    """The rows kept from one boundary on, as a plan over the rows that entered the language model.

    `gone` (B, P) counts the dropped rows at or before each row if positions are renumbered, else None.
    """

    plan: RowPlan
    gone: Tensor | None

    def positions(self, positions: Tensor) -> Tensor:
        """Gather the kept rows' positions from positions (..., B or 1, P), renumbered if `gone` is set."""
        axis = positions.ndim - 1
        if self.gone is None:
            return take(positions, self.plan.index, axis)
        return take(positions - self.gone, self.plan.ascending, axis)

    @property
    def shift(self) -> Tensor | None:
        """How far each row's later positions are shifted back, (B, 1); None if not renumbered."""
        return None if self.gone is None else self.gone[:, -1:]


@dataclass
class Call:
    """One forward pass of the language model: B rows, L new tokens.

    `kv` is its key-value cache, `caching` its `use_cache` argument (None if not passed). `seen` holds the
    attention mask over all tokens so far, None if all are visible. `real` (B, L) marks the new tokens that
    are not padding, and `past` (B, S) the same for the tokens in an unpruned cache; None if there is no
    padding. `sequences` (B, L) numbers the packed sequences of a row, None if there is only one; `restarts`
    (B, L) marks where positions decrease; `answers` (B, L) marks the tokens to be predicted, None if there
    are no labels. `stored` counts each cache layer's slots before the call. `front` describes the rows kept
    before the language model, `remaining` those kept from each decoder boundary on, and `due` holds the
    layers before which rows will be dropped. `positions` are those of the rotary embedding, and `rotates` is
    True once it was called. `last_rows` is how many of its last rows the language model may return, None if
    it returns all. `taps` holds the queries, keys and scaling of layers; `look` adds those of the layer
    before which rows are being dropped. `towers` is what cuts inside the vision tower left of
    each encoding.
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
    last_rows: int | None = None
    remaining: dict[int, RemainingRows] = field(default_factory=dict)
    look: Callable[[], None] | None = None
    taps: dict[int, tuple[Tensor, Tensor, float | None]] = field(default_factory=dict)
    masks: dict[Any, Any] = field(default_factory=dict)
    numbers: dict[Any, Tensor] = field(default_factory=dict)
    rotated: dict[Any, Any] = field(default_factory=dict)
    seconds: float = 0.0
    towers: list[Outcome] = field(default_factory=list)

    @classmethod
    def read(
        cls, language: LanguageCall, brought: ModelCall | None, packs: bool, answers: Tensor | None
    ) -> Call:
        """Create the state from the language model's arguments.

        Parameters
        ----------
        brought
            The call of the enclosing model, if it has images.
        packs
            Whether positions that restart begin another packed sequence.
        answers
            (B, L) labels, as the caller passed them; None if not passed.
        """
        embeds = language.embeds
        assert embeds is not None
        call = cls(embeds.shape[1], language.kv, language.caching)
        call.last_rows = stock.last_rows(language.rest)
        first = call.layer(call.counting)
        if brought is not None and brought.mask is None and (packs or _is_made(language.mask, call.kv)):
            call.sequences = sequence_numbers(language.positions, len(embeds))
        if call.sequences is None:  # otherwise the model made the mask, if any, from the same positions
            n_dropped = first.dropped if isinstance(first, PrunedLayer) else 0
            call.seen = SeenTokens.read(language.mask, n_dropped)
        if call.n_new > 1:  # a decoding step needs none of this, and must not synchronise
            call.stored = [stored_length(layer) for layer in stock.layers_of(call.kv)]
            if call.seen is not None:
                call.real = all_seen(call.seen.slice(call.n_seen, call.n_new))
                n_past = call.stored_at(call.counting)
                if n_past and not isinstance(first, PrunedLayer):
                    call.past = all_seen(call.seen.slice(0, n_past))
        if brought is not None:
            call.answers = None if answers is None else answers != stock.NO_ANSWER
            call.restarts = restarts(language.positions, call.real)
        call.entered, call.entered_real, call.entered_sequences = embeds, call.real, call.sequences
        return call

    @property
    def counting(self) -> int:
        """Index of the cache layer whose tokens count for the whole cache."""
        return stock.counting_layer(self.kv)

    @property
    def holds_states(self) -> bool:
        """Whether some cache layers hold a state of fixed size."""
        return any(map(stock.holds_state, stock.layers_of(self.kv)))

    def hides(self, image: Image) -> bool:
        """Whether the caller's mask hides tokens of an image, which is then left unpruned."""
        return self.real is not None and not bool(self.real[image.span.row, image.slots].all())

    def layer(self, index: int) -> Any:
        """One layer of the cache; None if there is none."""
        layers = stock.layers_of(self.kv)
        return layers[index] if index < len(layers) else None

    def stored_at(self, index: int) -> int:
        """Number of slots that a cache layer used before the call."""
        return self.stored[index] if index < len(self.stored) else 0

    def remaining_at(self, layer: int) -> RemainingRows | None:
        """The rows kept by the last decoder cut at or before a layer; None if there is none."""
        boundaries = [boundary for boundary in self.remaining if boundary <= layer]
        return self.remaining[max(boundaries)] if boundaries else None

    def remaining_among(self, layer: int, later: int) -> Tensor | None:
        """Rows of a layer's input that remain at a later layer, in its order (B, P'); None if all do."""
        own, last = self.remaining_at(layer), self.remaining_at(later)
        if last is None or last is own:
            return None
        return last.plan.index if own is None else own.plan.slot.gather(1, last.plan.index)

    def dropped(self, layer: int) -> int:
        """Number of this call's tokens that were dropped before a layer."""
        cuts = (self.front, self.remaining_at(layer))
        return sum(cut.plan.dropped for cut in cuts if cut is not None)

    def valid(self, layer: int) -> Tensor | None:
        """Which rows of a layer's input are not padding, (B, P); None if there is no padding."""
        remaining = self.remaining_at(layer)
        return self.entered_real if remaining is None else remaining.plan.valid

    def shift(self, layer: int) -> Tensor | None:
        """How far a layer's later positions are shifted back, (B, 1); None if not renumbered."""
        shifts = [cut.shift for cut in (self.front, self.remaining_at(layer)) if cut is not None]
        applied = [shift for shift in shifts if shift is not None]
        return torch.stack(applied).sum(0) if applied else None

    def sequence(self, layer: int) -> Tensor | None:
        """Packed sequence of each row a layer gets, (B, P), -1 for padding; None if there is only one."""
        remaining, numbers = self.remaining_at(layer), self.entered_sequences
        return numbers if remaining is None or numbers is None else remaining.plan.gather(numbers, -1)

    def numbering(self, layer: int) -> Tensor | None:
        """Positions from which a layer's packed mask is made, (B, P); None if there is only one sequence."""
        sequence = self.sequence(layer)
        return None if sequence is None else numbering(sequence)

    @property
    def n_seen(self) -> int:
        """Number of tokens that the cache has seen before this call."""
        return 0 if self.kv is None else int(stock.seen(self.kv))

    def positions_of(self, embeds: Tensor, passed: Tensor | None) -> Tensor:
        """Positions of the new tokens, (1 or B, L) or (3, B, L): those passed, or the next ones."""
        if passed is None:
            return (torch.arange(self.n_new, device=embeds.device) + self.n_seen)[None]
        has_text_row = passed.ndim == 3 and passed.shape[0] == 4  # before the three axes of M-RoPE
        return passed[1:] if has_text_row else passed

    def mask_of_rows(self, layer: int, n_new: int, valid: Tensor | None) -> Tensor | None:
        """Two-dimensional mask over a layer's stored tokens and `n_new` rows; None if all are visible.

        `valid` (B, n_new) is False for padding rows.
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

    def tokens(self, index: int, before: int, cached: PrunedLayer) -> Tensor:
        """Indices of all tokens that a pruned layer stores after this call, (B, S), before `commit`.

        `before` slots were used before the call, and this call's tokens are those that enter layer `index`.
        """
        remaining = self.remaining_at(index)
        key = id(cached.tokens), before, cached.dropped, id(remaining)  # the same for many layers
        if key not in self.numbers:
            plans = [cut.plan.index for cut in (self.front, remaining) if cut is not None]
            rows = plans[0] if len(plans) == 1 else take(plans[0], plans[1])
            past = cached.tokens_of(before, rows.device).expand(len(rows), -1)
            self.numbers[key] = torch.cat([past, rows + before + cached.dropped], 1)
        return self.numbers[key]

    def widen(self, rows: Tensor, layer: int) -> Tensor:
        """Expand a layer's rows to the prompt's length; dropped tokens repeat the kept one before them.

        If these are the last rows only, they are expanded to as many of the prompt's last tokens.
        """
        for remaining in (self.remaining_at(layer), self.front):
            if remaining is not None:
                n, n_kept = rows.shape[1], remaining.plan.index.shape[1]
                slot = remaining.plan.slot
                rows = take(rows, slot if n == n_kept else slot[:, -n:] - (n_kept - n))
        return rows


def _is_made(mask: Any, kv: Any) -> bool:
    """Whether the model made the mask itself, without a cache: it then encodes the packed sequences."""
    return kv is None and isinstance(stock.one_mask(mask), Tensor)
