# SPDX-License-Identifier: Apache-2.0
"""Drop rows before decoder layers, at the boundaries of a schedule."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from tokenprune.gather import take

from . import stock
from .call import Call, RemainingRows, untraced
from .calls import LayerCall
from .choosing import Chooser
from .facts import VisionLanguageFacts
from .packing import restarts
from .pruned_layer import PrunedLayer
from .receipts import check_rows
from .resolved import MaskMakers
from .signature import Signature
from .tap import AttentionFunctionTap
from .token_rows import prune_of_layers
from .tracing import CallTracer
from .undo import UndoStack


class DecoderCuts:
    """Hooks on the decoder layers from the first boundary on, and taps on attention near boundaries.

    Parameters
    ----------
    boundaries
        Layers before which rows are dropped, ascending.
    closes_up
        Whether later positions are renumbered to close the gaps of dropped rows.
    taps
        Whether to record queries and keys of the layers at and before boundaries.
    current
        Returns the current call.
    tracer
        Records the inputs of layers at boundaries; None for no trace.
    """

    def __init__(
        self,
        adapter: VisionLanguageFacts,
        signature: Signature,
        masks: MaskMakers,
        chooser: Chooser,
        boundaries: Sequence[int],
        closes_up: bool,
        taps: bool,
        current: Callable[[], Call | None],
        tracer: CallTracer | None = None,
    ) -> None:
        self.adapter, self._signature, self._masks, self._chooser = adapter, signature, masks, chooser
        self.boundaries, self._closes_up, self._current = boundaries, closes_up, current
        self._tracer, self.looks = tracer, False  # whether a layer's keys were read before it ran
        self._taps: dict[int, AttentionFunctionTap] = {}
        self._undo, self._cut = UndoStack(), untraced(self._cut_before)
        try:
            for i in range(boundaries[0], len(adapter.layers)):
                hook = functools.partial(self._enter_layer, i)
                register = functools.partial(adapter.layers[i].register_forward_pre_hook, hook)
                self._undo.do(lambda register=register: register(with_kwargs=True).remove)  # type: ignore[misc]
            for i in sorted({i + step for i in boundaries for step in (-1, 0)} if taps else ()):
                self._undo.do(functools.partial(self._tap, i))
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the hooks and taps."""
        self._undo.run()

    def _tap(self, layer: int) -> Callable[[], None]:
        tap = AttentionFunctionTap(
            self.adapter.attention(layer), functools.partial(self._record_attention, layer)
        )
        self._taps[layer] = tap
        return tap.remove

    def _record_attention(self, layer: int, query: Tensor, key: Tensor, scaling: float | None) -> None:
        call = self._current()
        if call is not None and (self._taps[layer].dry or layer + 1 in call.due):
            call.taps[layer] = query.detach(), key.detach(), scaling

    def _look(self, layer: int, hidden: Tensor, rotated: Any) -> None:
        """Compute queries and keys of the layer that runs next, without attending or caching."""
        self.looks = True
        attention, tap = self.adapter.attention(layer), self._taps[layer]
        normed = self.adapter.norm_before_attention(layer, hidden)
        signature = self.adapter.attention_signature(layer)
        args, kwargs = signature.write(LayerCall({}, normed, None, None, rotated))
        try:
            tap.dry = True
            attention(*args, **kwargs)
        finally:
            tap.dry = False

    def _enter_layer(
        self, i: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        call = self._current()
        if call is None:
            return None
        layer_call = self._signature.read(LayerCall, args, kwargs)
        if i in call.due:
            self._cut(i, call, layer_call)
        remaining, layer = call.remaining_at(i), call.layer(i)
        if remaining is not None:
            check_rows(f"decoder layer {i}", layer_call.hidden, remaining.plan.index.shape[1])
            layer_call.rotated = self._rotated(i, call, remaining, layer_call)
            layer_call.positions = call.numbering(i)
            layer_call.mask = self._mask(i, call, layer_call.hidden, layer)
            prune_of_layers(layer_call.rest, remaining.plan)
        elif isinstance(layer, PrunedLayer):
            self._continue_pruned(i, call, layer, layer_call)
        if self._tracer is not None and i in self.boundaries:
            positions = self._positions(call, remaining, self._closed_up(i, call))
            self._tracer.enter_layer(i, call, layer_call.hidden, layer_call.mask, positions)
        return self._signature.write(layer_call)

    def _cut_before(self, i: int, call: Call, layer_call: LayerCall) -> None:
        """Choose rows, and drop the others: hidden (B, P, D) -> (B, P', D)."""
        choice, before, hidden = call.choice, call.remaining_at(i), layer_call.hidden
        assert choice is not None
        rotated = self._rotated(i, call, before, layer_call)
        call.look = functools.partial(self._look, i, hidden, rotated)
        self._chooser.before_layer(i, call, hidden, rotated)
        hidden = choice.write_new_rows(hidden, None if before is None else before.plan.slot)
        plan = choice.plan()
        index = plan.index if before is None else before.plan.slot.gather(1, plan.index)
        gone = choice.gone(restarts(call.positions, call.entered_real)) if self._closes_up else None
        call.remaining[i] = RemainingRows(plan, gone)
        call.taps.clear()
        call.look = None
        layer_call.hidden = take(hidden, index)

    def _rotated(self, i: int, call: Call, remaining: RemainingRows | None, layer_call: LayerCall) -> Any:
        """Rotary cosines and sines of the remaining rows (None for all), after a layer's earlier shifts."""
        shift = self._closed_up(i, call)
        if shift is None and (remaining is None or remaining.gone is None):
            unpruned = layer_call.rotated
            if remaining is None:
                return unpruned
            key: tuple[int, int | None] = (id(remaining), None)
            if key not in call.rotated:
                call.rotated[key] = tuple(
                    take(rows, remaining.plan.index, rows.ndim - 2) for rows in unpruned
                )
            return call.rotated[key]
        key = id(remaining), self._group(i)
        if key not in call.rotated:
            positions = self._positions(call, remaining, shift)
            assert positions is not None
            call.rotated[key] = self.adapter.rotate(layer_call.hidden, positions)
        return call.rotated[key]

    def _positions(self, call: Call, remaining: RemainingRows | None, shift: Tensor | None) -> Tensor | None:
        """Positions (..., 1 or B, P) of the remaining rows (None for all), minus the earlier calls' shift."""
        positions = call.positions
        if positions is None:
            return None
        positions = positions if remaining is None else remaining.positions(positions)
        return positions if shift is None else positions - shift.to(positions.device)

    def _closed_up(self, i: int, call: Call) -> Tensor | None:
        """How much further than layer 0's a layer's positions were shifted by earlier calls, (B, 1)."""
        first, layer = call.layer(0), call.layer(i)
        if i == 0 or not isinstance(layer, PrunedLayer) or layer.shift is None or call.positions is None:
            return None
        front = first.shift if isinstance(first, PrunedLayer) else None
        return layer.shift if front is None else layer.shift - front.to(layer.shift.device)

    def _group(self, i: int) -> int:
        """The last boundary at or before a layer; layers with the same one store the same tokens."""
        return max(boundary for boundary in self.boundaries if boundary <= i)

    def _continue_pruned(self, i: int, call: Call, layer: PrunedLayer, layer_call: LayerCall) -> None:
        """Set the mask and the positions of a later call on a pruned layer."""
        hidden = layer_call.hidden
        if layer_call.mask is not None or layer.valid is not None or hidden.shape[1] > 1:
            layer_call.mask = self._mask(i, call, hidden, layer)
        layer_call.rotated = self._rotated(i, call, None, layer_call)

    def _mask(self, i: int, call: Call, hidden: Tensor, layer: Any) -> Any:
        """The causal mask over a layer's stored and new tokens, shared by its group of layers."""
        group = self._group(i)
        if group not in call.masks:
            n_new = hidden.shape[1]
            if call.sequences is not None:
                flat = None
            elif call.remaining_at(i) is not None:
                flat = call.mask_of_rows(i, n_new, call.valid(i))
            else:
                flat = layer.mask(n_new, call.seen)
            kv = None if layer is None else stock.kv_of_one(layer)
            config = self.adapter.language_model.config
            call.masks[group] = self._masks.make(stock.FULL, config, hidden, flat, kv, call.numbering(i))
        return call.masks[group]
