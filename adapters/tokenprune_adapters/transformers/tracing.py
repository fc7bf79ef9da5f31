# SPDX-License-Identifier: Apache-2.0
"""Record what each call did at its boundaries, for `PruningHandle.trace`.

Recording synchronises the device, and so runs only if `apply` was called with ``trace=True``. Between calls
it holds integers only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenprune import BoundaryTrace, CallTrace, RowTrace

from . import stock
from .call import Call, untraced
from .pruned_layer import PrunedLayer, stored_length

Ends = tuple[tuple[int, ...], tuple[int, ...]] | None  # positions of a row's first and last token


@dataclass(frozen=True)
class _Passed:
    """Number of tokens before and after a boundary, for each row of the batch."""

    layer: int
    n_in: list[int]
    n_out: list[int]
    ends: list[Ends]
    mask: tuple[int, ...] | None


class CallTracer:
    """Collects the boundaries of the current call.

    Parameters
    ----------
    record
        Called with the trace of each call.
    rules
        Position rule of the cut at each stage that has one.
    """

    def __init__(self, record: Callable[[CallTrace], None], rules: Mapping[str, str]) -> None:
        self._record, self._rules = record, rules
        self._mask: tuple[int, ...] | None = None
        self._passed: list[_Passed] = []
        self.enter_language = untraced(self._enter_language)
        self.enter_layer = untraced(self._enter_layer)
        self.leave_language = untraced(self._leave_language)

    @classmethod
    def of(cls, record: Callable[[CallTrace], None] | None, rules: Mapping[str, str]) -> CallTracer | None:
        """Return a tracer; None if traces were not asked for."""
        return None if record is None else cls(record, rules)

    def _enter_language(self, mask: Any) -> None:
        """Begin a call, and record the mask that its language model is passed."""
        self._mask, self._passed = _shape(mask), []

    def _enter_layer(self, i: int, call: Call, hidden: Tensor, mask: Any, positions: Tensor | None) -> None:
        """Record the input of decoder layer `i`: hidden (B, P, D), positions (..., 1 or B, P)."""
        before, entered = call.remaining_at(i - 1), call.entered
        assert entered is not None
        width = entered.shape[1] if before is None else before.plan.index.shape[1]
        n_rows, n_out, real = len(hidden), hidden.shape[1], call.valid(i)
        n_in = _counts(call.valid(i - 1), n_rows, width)
        ends = _ends(positions, real, n_rows)
        self._passed.append(_Passed(i, n_in, _counts(real, n_rows, n_out), ends, _shape(mask)))

    def _leave_language(self, call: Call, kv: Any) -> None:
        """Record the call, after its cache was updated."""
        boundaries = [boundary for tower in call.towers for boundary in tower.boundaries]
        if "projector" in self._rules:
            boundaries.append(self._boundary("projector", self._at_front(call), call, kv))
        boundaries += [self._boundary("decoder", passed, call, kv) for passed in self._passed]
        self._mask, self._passed = None, []
        self._record(CallTrace(call.n_new, tuple(boundaries)))

    def _at_front(self, call: Call) -> _Passed:
        """The boundary before the language model."""
        entered, real = call.entered, call.entered_real
        assert entered is not None
        n_rows, n_out = entered.shape[:2]
        n_in = _counts(call.real, n_rows, call.n_new)
        ends = _ends(call.positions, real, n_rows)
        return _Passed(0, n_in, _counts(real, n_rows, n_out), ends, self._mask)

    def _boundary(self, stage: str, passed: _Passed, call: Call, kv: Any) -> BoundaryTrace:
        layers = stock.layers_of(kv)
        index = max(passed.layer, stock.counting_layer(kv))
        layer = layers[index] if index < len(layers) else None
        stored = seen = None
        masked = [0] * len(passed.n_in)
        if layer is not None:
            seen = int(stock.seen(layer))
            stored = stock.slots_held(layer, stored_length(layer))
            masked = _masked(call, layer, stored, len(masked))
        rows = []
        for row, (n_in, n_out) in enumerate(zip(passed.n_in, passed.n_out, strict=True)):
            first, last = passed.ends[row] or (None, None)
            rows.append(RowTrace(n_in, n_out, first, last, masked[row]))
        return BoundaryTrace(stage, passed.layer, tuple(rows), self._rules[stage], passed.mask, stored, seen)


def _shape(mask: Any) -> tuple[int, ...] | None:
    """Shape of a mask; of the full attention mask if there is one for each kind of layer."""
    shape = getattr(stock.one_mask(mask), "shape", None)
    return None if shape is None else tuple(shape)


def _counts(real: Tensor | None, n_rows: int, width: int) -> list[int]:
    """Number of tokens of each row (B, width) that are not padding."""
    return [width] * n_rows if real is None else real.sum(1).tolist()


def _ends(positions: Tensor | None, real: Tensor | None, n_rows: int) -> list[Ends]:
    """Positions of the first and the last token of each row, of (..., 1 or B, P); None if there is none."""
    if positions is None:
        return [None] * n_rows
    axes = positions if positions.ndim == 3 else positions[None]
    axes = axes.expand(-1, n_rows, -1)
    ends: list[Ends] = []
    for row in range(n_rows):
        present = axes[:, row] if real is None else axes[:, row, real[row].to(axes.device)]
        if present.shape[1]:
            ends.append((tuple(present[:, 0].tolist()), tuple(present[:, -1].tolist())))
        else:
            ends.append(None)
    return ends


def _masked(call: Call, layer: Any, stored: int, n_rows: int) -> list[int]:
    """Number of slots in use that are masked, for each row."""
    n, seen = stored_length(layer), call.seen
    if isinstance(layer, PrunedLayer):
        like = layer.valid if seen is None else seen.flat
        visible = None if like is None else layer.visible(n, seen, like.device)
    else:
        visible = None if seen is None else seen.of(torch.arange(n, device=seen.flat.device)[None])
    return [0] * n_rows if visible is None else (~visible[:, n - stored :]).sum(1).tolist()
