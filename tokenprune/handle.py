# SPDX-License-Identifier: Apache-2.0
"""The handle that `apply` returns: reports what was kept, and removes the pruning."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType

import torch
from torch import nn

from .boundaries import CallTrace
from .cut import Cut
from .errors import AlreadyPrunedError, OptionError, UnsupportedCallError
from .notebook import html_table
from .report import PruningReport
from .restore import restored_on_error

# the models that are pruned; stored here so that nothing has to be stored on a model
_ACTIVE: weakref.WeakKeyDictionary[nn.Module, weakref.ref[PruningHandle]] = weakref.WeakKeyDictionary()


class PruningHandle:
    """Handle of a pruned model: reports what its calls kept, and removes the pruning.

    ``with tokenprune.apply(model, ...) as handle:`` prunes inside the block; `remove()` does it by hand.
    """

    def __init__(
        self,
        model: nn.Module,
        cuts: Sequence[Cut],
        rehearsal: str = "",
        traced: bool = False,
        adapter: str = "",
    ) -> None:
        self.cuts = tuple(cuts)
        self.rehearsal = rehearsal  # what the rehearsal measured, or why there was none
        self.adapter = adapter  # name of the adapter: "by-structure" for a family that was not tested
        self._last: PruningReport | None = None
        self._traced = traced
        self._last_trace: CallTrace | None = None
        self._undo: Callable[[], None] | None = None
        self._model = weakref.ref(model)
        self._entered = False
        self._hooked: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def install(self, install: Callable[[Callable[[PruningReport], None]], Callable[[], None]]) -> None:
        """Run an adapter's installation and store its undo function."""
        model = self._model()
        assert model is not None  # the caller holds a reference
        with restored_on_error(model) as changed:
            undo = install(self._record)
            try:
                self._hooked = weakref.WeakSet(changed())
                forget_compiled()
            except BaseException:
                undo()
                raise
        self._undo = undo
        _ACTIVE[model] = weakref.ref(self)

    @property
    def last(self) -> PruningReport | None:
        """What the last prefill with visual tokens kept; None before the first."""
        return self._last

    def trace(self) -> CallTrace:
        """Return what the last call did at each boundary, a decoding step included; `str()` gives a table.

        Raises
        ------
        OptionError
            If `apply` was not called with ``trace=True``.
        UnsupportedCallError
            If the pruned model has not been called yet.
        """
        if not self._traced:
            raise OptionError("calls are not recorded; prune with tokenprune.apply(..., trace=True)")
        if self._last_trace is None:
            raise UnsupportedCallError("there is no trace yet; call the pruned model first")
        return self._last_trace

    @property
    def record_trace(self) -> Callable[[CallTrace], None] | None:
        """Function that an adapter calls at the end of each call; None without ``trace=True``."""
        return self._record_trace if self._traced else None

    @property
    def is_active(self) -> bool:
        """Whether the model is still pruned."""
        return self._undo is not None

    def remove(self) -> None:
        """Restore the model exactly. Can be called repeatedly.

        Waits for a call of the model in another thread. If interrupted, it can be called again.
        """
        if self._undo is None:
            return
        self._undo()
        self._undo = None
        model = self._model()
        if model is not None and _handle_of(model) is self:  # another handle may have replaced it
            _ACTIVE.pop(model, None)
        forget_compiled()

    def __enter__(self) -> PruningHandle:
        """Return the handle, which removes the pruning at the end of the block.

        Raises
        ------
        UnsupportedCallError
            When the pruning was already removed, or the block is inside another one of the same handle.
        """
        if not self.is_active:
            raise UnsupportedCallError("this pruning has been removed; call tokenprune.apply() again")
        if self._entered:
            raise UnsupportedCallError("the handle is already in a with block, whose end removes the pruning")
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def _record(self, report: PruningReport) -> None:
        self._last = report

    def _record_trace(self, trace: CallTrace) -> None:
        self._last_trace = trace

    def __repr__(self) -> str:
        cuts = ", ".join(f"{cut.method.name} {cut.budget}" for cut in self.cuts)
        state = "active" if self.is_active else "removed"
        return f"<PruningHandle {cuts}, adapter {self.adapter}, {state}>"

    def _repr_html_(self) -> str:
        cuts = [(cut.method.name, cut.budget, cut.method.stage) for cut in self.cuts]
        table = html_table(repr(self)[1:-1], ("method", "budget", "stage"), cuts)
        return table + ("" if self.last is None else self.last._repr_html_())


def forget_compiled() -> None:
    """Reset torch.compile, whose code has no guards for hooks that were added or removed."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def active_handle(model: nn.Module) -> PruningHandle | None:
    """Return the handle of a pruned model, or of one whose hooked modules it shares; None if not pruned."""
    handle = _handle_of(model)
    if handle is not None:
        return handle
    handles = [handle for reference in list(_ACTIVE.values()) if (handle := reference()) is not None]
    if not handles:
        return None
    modules = set(model.modules())
    return next((handle for handle in handles if not modules.isdisjoint(handle._hooked)), None)


def _handle_of(model: nn.Module) -> PruningHandle | None:
    """Return the handle of this model itself."""
    reference = _ACTIVE.get(model)
    return None if reference is None else reference()


def is_pruned(model: nn.Module) -> bool:
    """Whether a tokenprune handle is active on this model, or on modules it shares with another one."""
    return model in _ACTIVE or active_handle(model) is not None


def check_unpruned(model: nn.Module) -> None:
    """Raise if the model is already pruned.

    Raises
    ------
    AlreadyPrunedError
        Stating whether the model itself is pruned, or one that it shares modules with.
    """
    if not is_pruned(model):
        return
    if model in _ACTIVE:
        raise AlreadyPrunedError(
            "this model is already pruned; call remove() on its handle first, "
            "which is tokenprune.active_handle(model)"
        )
    raise AlreadyPrunedError(
        f"this {type(model).__name__} shares modules with a model that is pruned, and is pruned with it: one "
        "is part of the other, or a copy.copy() of it, which copies the outer module only. Call remove() on "
        "that handle first, which is tokenprune.active_handle(model)"
    )
