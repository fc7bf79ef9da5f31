# SPDX-License-Identifier: Apache-2.0
"""Run the whole vision tower with the dropped tokens hidden by masks: a reference for cuts inside it.

No row is gathered and nothing is widened: from the block of a cut on, no row attends to a dropped one, so the
rows of the survivors are those of a tower without the others. What the other rows become does not matter.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune import UnsupportedModelError
from tokenprune.towers.outcome import Outcome

from .. import stock
from ..facts import VisionLanguageFacts
from ..tap import AttentionFunctionTap
from ..tower.parts import TowerParts


@contextmanager
def masked_tower(adapter: VisionLanguageFacts, outcomes: Sequence[Outcome]) -> Iterator[None]:
    """Context manager: hide in the tower's runs, in their order, what was dropped in each.

    Raises
    ------
    UnsupportedModelError
        When the attention of the tower's blocks cannot be replaced.
    """
    parts = adapter.tower()
    assert parts is not None
    if parts.attention is None:
        raise UnsupportedModelError(
            f"the attention of {type(parts.module).__name__} cannot be replaced by one with a mask"
        )
    runs = _Runs(outcomes)
    with ExitStack() as stack:
        stack.enter_context(_hooked(parts.module, lambda *_: runs.begin()))
        for number, block in enumerate(parts.blocks):
            tap = _HidingTap(parts.attention(number), runs, number)
            stack.callback(tap.remove)
            stack.enter_context(_hooked(block, functools.partial(runs.enter_block, parts, number, tap)))
        yield


class _Runs:
    """The outcome that belongs to the current run of the tower."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self._waiting, self.outcome = list(outcomes), None

    outcome: Outcome | None

    def begin(self) -> None:
        """Begin the next run; a tower that runs again in a later call has no more images."""
        self.outcome = self._waiting.pop(0) if self._waiting else None

    def keep(self, block: int) -> Tensor | None:
        """(B, M) which rows are left in a block; None if all are."""
        if self.outcome is None:
            return None
        cuts = zip(self.outcome.blocks, self.outcome.states, strict=True)
        states = [state for boundary, state in cuts if boundary <= block]
        return states[-1].keep if states else None

    def enter_block(
        self, parts: TowerParts, number: int, tap: _HidingTap, module: Any, args: Any, kwargs: Any
    ) -> Any:
        """Begin a block: replace the rows that tokens were merged into."""
        tap.n_seen = 0
        merged = [] if self.outcome is None else self.outcome.merged.get(number, [])
        if not merged:
            return None
        name = stock.argument_name("hidden")
        hidden = (args[0] if args else kwargs[name]).clone()
        flat = hidden.view(-1, hidden.shape[-1])
        for rows, features in merged:
            flat[rows] = features.to(flat.dtype).view(*rows.shape, -1)
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, name: hidden})


class _HidingTap(AttentionFunctionTap):
    """Attention in which no row attends to dropped ones, other than itself; `n_seen` rows came before."""

    def __init__(self, attention: Any, runs: _Runs, block: int) -> None:
        self._runs, self._block, self.n_seen = runs, block, 0
        super().__init__(attention, lambda query, key, scaling: None)

    def __call__(  # noqa: D102  (the class says it)
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, *mask: Any, **options: Any
    ) -> Any:
        keep = self._runs.keep(self._block)
        if keep is None:
            return super().__call__(module, query, key, value, *mask, **options)
        n = key.shape[2]
        keep = keep[:, self.n_seen : self.n_seen + n].to(key.device)
        self.n_seen += n
        allowed = keep[:, None, None, :] | torch.eye(n, dtype=torch.bool, device=key.device)
        allowed = allowed & _within_segments(n, stock.segments_of(options), key.device)
        scaling = stock.scaling_of(options) or query.shape[-1] ** -0.5
        shared = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(shared, 1).float() for part in (key, value))
        logits = query.float() @ key.mT * scaling
        given = stock.mask_of(mask, options)
        if given is not None:
            logits = logits.masked_fill(~given, -torch.inf) if given.dtype == torch.bool else logits + given
        mixed = logits.masked_fill(~allowed, -torch.inf).softmax(-1) @ value
        return mixed.to(query.dtype).transpose(1, 2), None


def _within_segments(n: int, borders: Tensor | None, device: torch.device) -> Tensor:
    """(n, n) which rows are in the same segment, of one call for all of them; all if it is one."""
    if borders is None:
        return torch.ones(n, n, dtype=torch.bool, device=device)
    number = torch.bucketize(torch.arange(n, device=device), borders.to(device), right=True)
    return number[:, None] == number[None]


@contextmanager
def _hooked(module: nn.Module, hook: Any) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
