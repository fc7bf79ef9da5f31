# SPDX-License-Identifier: Apache-2.0
"""The promises, checked on a model of the user's own: every method that runs on it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from ..api import apply
from ..budget import Budget
from ..errors import (
    AlreadyPrunedError,
    BudgetError,
    IncompatibleError,
    OptionError,
    TokenPruneError,
    UnsupportedCallError,
    UnsupportedModelError,
)
from ..handle import PruningHandle, is_pruned
from ..methods import Method
from ..registry import default_registry
from ..trial import ALL_PROMISES, EXACTNESS, IDENTITY, UNDO, Judge, PromiseRecord, Trial
from .leftovers import ModelState
from .outputs import PlainTrial, largest_difference
from .results import ModelCheck

EVERYTHING = 2**40  # a budget no image reaches
SHARE = 0.5  # of the visual tokens, where nothing is said
# what a model or a strategy that works otherwise than expected raises
BROKEN = (TokenPruneError, TypeError, ValueError, AttributeError, LookupError, RuntimeError, AssertionError)


def check_model(
    model: nn.Module,
    inputs: Any = None,
    *,
    methods: Sequence[str | Method] | None = None,
    keep: int | None = None,
    keep_ratio: float | None = None,
    seed: int = 0,
) -> ModelCheck:
    """Check tokenprune's promises on this model, on its device, in its dtype, with its attention.

    The model is pruned and unpruned again by every method; afterwards it is what it was.

    Parameters
    ----------
    model
        A model some adapter knows, unpruned.
    inputs
        What the model is called with, as ``processor(..., return_tensors="pt")`` gives it, on the model's
        device: a batch of one row or more, with at least one image. None: random ones, where the adapter can
        make them.
    methods
        Names or Method objects; None: all that are registered. One that the model cannot serve is recorded
        as not applicable, with the reason.
    keep, keep_ratio
        Visual tokens to keep of each image, or the share of them, below all of them; by default a half.
    seed
        For random inputs and methods.

    Returns
    -------
    ModelCheck
        A record for each promise and method; `passed` says whether all was well.

    Raises
    ------
    UnsupportedModelError, AlreadyPrunedError, PluginError, UnknownNameError, BudgetError, OptionError
        When there is nothing to check: no adapter knows the model, it is pruned, a name is unknown, or the
        budget leaves every token. UnsupportedCallError when the unpruned model fails on these inputs.
    """
    start = time.perf_counter()
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"check_model() takes a torch model, got {type(model).__name__}")
    if is_pruned(model):
        raise AlreadyPrunedError("this model is pruned; call remove() on its handle, then check it")
    budget = Budget(None, SHARE) if keep is None and keep_ratio is None else Budget(keep, keep_ratio)
    chosen = _methods(methods)
    adapter = default_registry().adapter_for(model)(model)
    adapter.check_model()
    inputs = adapter.example_inputs(seed) if inputs is None else inputs
    trial = adapter.trial(inputs) or PlainTrial(model, inputs)
    with trial.undisturbed():
        check = _Check(model, trial, budget, seed)
        found: list[PromiseRecord] = []
        for one in chosen:
            found += check.records(one, adapter.placing(one), is_last=one is chosen[-1])
    weight = next((w for w in model.parameters() if w.is_floating_point()), torch.zeros(()))
    return ModelCheck(
        model=type(model).__name__,
        adapter=adapter.name,
        device=str(weight.device),
        dtype=str(weight.dtype).removeprefix("torch."),
        settings=trial.settings,
        budget=str(budget),
        records=tuple(found),
        seconds=time.perf_counter() - start,
    )


def _methods(given: Any) -> list[Method]:
    registry = default_registry()
    if given is None:
        given = registry.names("method")
    if isinstance(given, (str, Method)) or not isinstance(given, Sequence) or not given:
        raise OptionError(f"methods is a list of names or Method objects, or None for all, got {given!r}")
    return [one if isinstance(one, Method) else registry.find("method", one) for one in given]


class _Check:
    """Runs of one model that is pruned by one method after the other, compared with its first runs."""

    def __init__(self, model: nn.Module, trial: Trial, budget: Budget, seed: int) -> None:
        self._model, self._trial, self._budget, self._seed = model, trial, budget, seed
        try:
            self._stock = trial.outputs()
            self._own = largest_difference(self._stock, trial.outputs())
        except torch.OutOfMemoryError:
            raise
        except BROKEN as error:
            raise UnsupportedCallError(
                f"the unpruned {type(model).__name__} cannot be run on these inputs "
                f"({type(error).__name__}: {error}); inputs are what the model is called with"
            ) from error
        self._state = ModelState(model)

    def records(self, method: Method, placing: dict[str, Any], is_last: bool) -> Iterator[PromiseRecord]:
        """Check one method; after the last one the model answers at length once more."""
        name, found = method.name, list[PromiseRecord]()
        options = {"method": method, "seed": self._seed, **placing}
        try:
            handle = self._apply(options, found)
        except (IncompatibleError, UnsupportedModelError, BudgetError) as error:
            yield PromiseRecord.skipped(ALL_PROMISES, name, str(error))
            return
        yield from found
        judges: list[Judge] = []
        yield from self._guarded(name, EXACTNESS, lambda: self._run(handle, judges))
        yield from self._guarded(name, IDENTITY, lambda: self._identity(name, options))
        yield from self._guarded(name, UNDO, lambda: [self._undone(name, brief=not is_last)])
        for judge in judges:
            yield from self._guarded(name, EXACTNESS, judge)

    def _apply(self, options: dict[str, Any], found: list[PromiseRecord]) -> PruningHandle:
        """Prune as users do, with a rehearsal; without it where that refuses."""
        budget: dict[str, Any] = {"keep": self._budget.keep, "keep_ratio": self._budget.keep_ratio}
        try:
            return apply(self._model, **options, **budget)
        except UnsupportedModelError as error:
            handle = apply(self._model, **options, **budget, verify=False)
            found.append(PromiseRecord.failed(EXACTNESS, options["method"].name, str(error)))
            return handle

    def _guarded(self, name: str, promise: str, check: Judge) -> Iterator[PromiseRecord]:
        """What a check found; a model that raises has broken the promise."""
        try:
            yield from check()
        except (torch.OutOfMemoryError, BudgetError):
            raise
        except BROKEN as error:
            yield PromiseRecord.failed(promise, name, f"{type(error).__name__}: {error}")

    def _run(self, handle: PruningHandle, judges: list[Judge]) -> Iterator[PromiseRecord]:
        """Run the pruned model, for judges to come."""
        with handle:
            judges.append(self._trial.run(handle))
        report, name = handle.last, handle.cuts[0].method.name
        if report is None or not report.images:
            yield PromiseRecord.failed(EXACTNESS, name, "no visual token was seen, and none pruned")
        elif report.n_after == report.n_before:
            raise BudgetError(
                f"{self._budget} leaves all {report.n_before} visual tokens of these inputs, so that nothing "
                "is cut and nothing can be checked; give less"
            )

    def _identity(self, name: str, options: dict[str, Any]) -> list[PromiseRecord]:
        with apply(self._model, **options, keep=EVERYTHING, verify=False):
            return [self._same(IDENTITY, name)]

    def _undone(self, name: str, brief: bool) -> PromiseRecord:
        """Whether the model is what it was."""
        left = self._state.changed_on(self._model)
        return PromiseRecord.failed(UNDO, name, left) if left else self._same(UNDO, name, brief)

    def _same(self, promise: str, name: str, brief: bool = False) -> PromiseRecord:
        note = "the unpruned model's own answers differ from run to run" if self._own else ""
        difference = largest_difference(self._stock, self._trial.outputs(brief))
        return PromiseRecord.of(promise, name, difference, self._own, note)
