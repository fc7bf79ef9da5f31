# SPDX-License-Identifier: Apache-2.0
"""Cuts inside the vision towers of vLLM, made by hooks on the blocks of an engine's own model."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from tokenprune.towers.survivors import Survivors

from .tower_run import EngineRun


class TowerCuts:
    """Hooks on a tower's blocks that drop rows while a run is active; without one the tower runs as usual.

    Blocks are hooked by a `forward` on the instance, because vLLM calls that of compilable blocks directly.

    Parameters
    ----------
    blocks
        The tower's blocks.
    boundaries
        Those before which tokens are cut.
    arguments
        Names of the arguments of blocks by ours: `hidden`, the rows, and for towers that run all items as one
        sequence `borders`, `longest` and `rotary` (several names).
    """

    def __init__(
        self, blocks: Sequence[Any], boundaries: Sequence[int], arguments: Mapping[str, Any]
    ) -> None:
        self.run: EngineRun | None = None
        self._boundaries, self._arguments = frozenset(boundaries), arguments
        # arguments, so that ids stay theirs, and shorter ones
        self._cached: dict[tuple[int, int], tuple[Any, Any]] = {}
        for i, block in list(enumerate(blocks))[min(boundaries) :]:
            names = list(inspect.signature(block.forward).parameters)
            _wrap(block, functools.partial(self._enter_block, i, names))

    @contextmanager
    def running(self, run: EngineRun | None) -> Iterator[None]:
        """Context manager: make the cuts of a run; None: none."""
        self.run, self._cached = run, {}
        try:
            yield
        finally:
            self.run, self._cached = None, {}

    def widen_after(self, module: Any) -> None:
        """Widen the rows (K, D) that a module returns, one for each token left, to all tokens."""

        def widen(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            rows = forward(*args, **kwargs)
            survivors = None if self.run is None else self.run.survivors
            return rows if survivors is None else survivors.widen_tokens(rows)

        _wrap(module, widen)

    def _enter_block(
        self, i: int, names: Sequence[str], forward: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        run = self.run
        if run is None:
            return forward(*args, **kwargs)
        arguments = {**dict(zip(names, args, strict=False)), **kwargs}
        name = self._arguments["hidden"]
        if i in self._boundaries:
            arguments[name] = self._cut(i, run, arguments[name])
        if run.survivors is not None:
            self._shorten(arguments, run.survivors)
        return forward(**arguments)

    def _cut(self, i: int, run: EngineRun, hidden: Tensor) -> Tensor:
        """Cut rows (B, M, D) of a batch, or (M, 1, D) of one sequence."""
        if not self._is_packed:
            return run.cut_before(i, hidden, traces=False)
        return run.cut_before(i, hidden.transpose(0, 1), traces=False).transpose(0, 1)

    @property
    def _is_packed(self) -> bool:
        return "borders" in self._arguments

    def _shorten(self, arguments: dict[str, Any], survivors: Survivors) -> None:
        """Replace the arguments that have an entry for each row by those of the rows left."""
        if not self._is_packed:
            return
        borders, longest = self._arguments["borders"], self._arguments["longest"]
        arguments[borders], longest_left = self._once(arguments[borders], survivors, _segments_left)
        given = arguments[longest]
        arguments[longest] = longest_left.to(given) if isinstance(given, Tensor) else int(longest_left)
        for name in self._arguments["rotary"]:
            arguments[name] = self._once(arguments[name], survivors, Survivors.rows_left)

    def _once(self, value: Any, survivors: Survivors, shorten: Callable[[Survivors, Any], Any]) -> Any:
        key = id(value), id(survivors)
        if key not in self._cached:
            self._cached[key] = value, shorten(survivors, value)
        return self._cached[key][1]


def _segments_left(survivors: Survivors, borders: Tensor) -> tuple[Tensor, Tensor]:
    """Borders of the windows or frames that have rows left, and the length of the longest."""
    left = survivors.borders_left(borders)
    return left, left.diff().max()


def _wrap(module: Any, around: Callable[..., Any]) -> None:
    """Call `around` (forward, *args, **kwargs) instead of a module's forward."""
    module.forward = functools.partial(around, module.forward)
