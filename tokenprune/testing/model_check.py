# SPDX-License-Identifier: Apache-2.0
"""Check the promises of tokenprune on a given model, with every method that runs on it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from ..api import apply
from ..arguments import read_budgets
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

EVERYTHING = 2**40  # a budget that no image reaches
SHARE = 0.5  # default share of the visual tokens to keep
# errors of a model or a strategy that does not behave as expected
BROKEN = (TokenPruneError, TypeError, ValueError, AttributeError, LookupError, RuntimeError, AssertionError)


def check_model(
    model: nn.Module,
    inputs: Any = None,
    *,
    methods: Sequence[str | Method] | None = None,
    keep: int | Budget | None = None,
    keep_ratio: float | None = None,
    seed: int = 0,
) -> ModelCheck:
    """Check tokenprune's promises on a model, with its device, dtype and attention implementation.

    Every method prunes the model and is removed again; afterwards the model is unchanged.

    Parameters
    ----------
    model
        A model that an adapter supports, not pruned.
    inputs
        Inputs of the model, as returned by ``processor(..., return_tensors="pt")``, on the model's device: a
        batch of one or more rows, with at least one image. None: random inputs, if the adapter can make them.
    methods
        Names or Method objects; None: all registered methods. A method that the model does not support is
        recorded as not applicable, with the reason.
    keep, keep_ratio
        Visual tokens to keep of each image, or the share of them, fewer than all; by default a half.
    seed
        Seed of random inputs and methods.

    Returns
    -------
    ModelCheck
        A record for each promise and method; `passed` says whether no promise was broken.

    Raises
    ------
    UnsupportedModelError, AlreadyPrunedError, PluginError, UnknownNameError, BudgetError, OptionError
        When nothing can be checked: no adapter supports the model, it is already pruned, a name is unknown,
        or the budget keeps every token. UnsupportedCallError when the unpruned model fails on these inputs.
    """
    start = time.perf_counter()
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"check_model() takes a torch model, got {type(model).__name__}")
    if is_pruned(model):
        raise AlreadyPrunedError("this model is pruned; call remove() on its handle, then check it")
    ratio = SHARE if keep is None and keep_ratio is None else keep_ratio
    (budget,) = read_budgets(keep, ratio, None, None, 1)
    checked_methods = _methods(methods)
    adapter = default_registry().adapter_for(model)(model)
    adapter.check_model()
    inputs = adapter.example_inputs(seed) if inputs is None else inputs
    trial = adapter.trial(inputs) or PlainTrial(model, inputs)
    with trial.undisturbed():
        check = _Check(model, trial, budget, seed)
        records: list[PromiseRecord] = []
        for method in checked_methods:
            is_last = method is checked_methods[-1]
            records += check.records(method, adapter.placing(method), is_last=is_last)
    weight = next((w for w in model.parameters() if w.is_floating_point()), torch.zeros(()))
    return ModelCheck(
        model=type(model).__name__,
        adapter=adapter.name,
        device=str(weight.device),
        dtype=str(weight.dtype).removeprefix("torch."),
        settings=trial.settings,
        budget=str(budget),
        records=tuple(records),
        seconds=time.perf_counter() - start,
    )


def _methods(methods: Any) -> list[Method]:
    registry = default_registry()
    if methods is None:
        methods = registry.names("method")
    if isinstance(methods, (str, Method)) or not isinstance(methods, Sequence) or not methods:
        raise OptionError(f"methods must be a list of names or Method objects, or None, got {methods!r}")
    return [item if isinstance(item, Method) else registry.find("method", item) for item in methods]


class _Check:
    """Compares the runs of a model, pruned by one method after the other, with its unpruned runs."""

    def __init__(self, model: nn.Module, trial: Trial, budget: Budget, seed: int) -> None:
        self._model, self._trial, self._budget, self._seed = model, trial, budget, seed
        try:
            self._reference = trial.outputs()
            self._tolerance = largest_difference(self._reference, trial.outputs())
        except torch.OutOfMemoryError:
            raise
        except BROKEN as error:
            raise UnsupportedCallError(
                f"the unpruned {type(model).__name__} cannot be run on these inputs "
                f"({type(error).__name__}: {error}); pass inputs that the model can be called with"
            ) from error
        self._state = ModelState(model)

    def records(self, method: Method, placing: dict[str, Any], is_last: bool) -> Iterator[PromiseRecord]:
        """Check one method; the outputs after the last one are compared in full, not only briefly."""
        name, failures = method.name, list[PromiseRecord]()
        options = {"method": method, "seed": self._seed, **placing}
        try:
            handle = self._apply(options, failures)
        except (IncompatibleError, UnsupportedModelError, BudgetError) as error:
            yield PromiseRecord.skipped(ALL_PROMISES, name, str(error))
            return
        yield from failures
        judges: list[Judge] = []
        yield from self._guarded(name, EXACTNESS, lambda: self._run(handle, judges))
        if method.adaptive:
            note = "with any budget, how many tokens it keeps depends on the picture"
            yield PromiseRecord.skipped(IDENTITY, name, note)
        else:
            yield from self._guarded(name, IDENTITY, lambda: self._identity(name, options))
        yield from self._guarded(name, UNDO, lambda: [self._undone(name, brief=not is_last)])
        for judge in judges:
            yield from self._guarded(name, EXACTNESS, judge)

    def _apply(self, options: dict[str, Any], failures: list[PromiseRecord]) -> PruningHandle:
        """Prune with a rehearsal, as users do; if it fails, record that and prune without."""
        try:
            return apply(self._model, **options, keep=self._budget)
        except UnsupportedModelError as error:
            handle = apply(self._model, **options, keep=self._budget, verify=False)
            failures.append(PromiseRecord.failed(EXACTNESS, options["method"].name, str(error)))
            return handle

    def _guarded(self, name: str, promise: str, check: Judge) -> Iterator[PromiseRecord]:
        """Yield the records of a check; an error counts as a broken promise."""
        try:
            yield from check()
        except (torch.OutOfMemoryError, BudgetError):
            raise
        except BROKEN as error:
            yield PromiseRecord.failed(promise, name, f"{type(error).__name__}: {error}")

    def _run(self, handle: PruningHandle, judges: list[Judge]) -> Iterator[PromiseRecord]:
        """Run the pruned model and append the check of its promises to `judges`."""
        with handle:
            judges.append(self._trial.run(handle))
        report, name = handle.last, handle.cuts[0].method.name
        if report is None or not report.images:
            yield PromiseRecord.failed(EXACTNESS, name, "no visual token was seen, and none pruned")
        elif report.n_after == report.n_before:
            raise BudgetError(
                f"{self._budget} leaves all {report.n_before} visual tokens of these inputs, so nothing is "
                "cut and nothing can be checked; give a smaller budget"
            )

    def _identity(self, name: str, options: dict[str, Any]) -> list[PromiseRecord]:
        with apply(self._model, **options, keep=EVERYTHING, verify=False):
            return [self._same(IDENTITY, name)]

    def _undone(self, name: str, brief: bool) -> PromiseRecord:
        """Check that the model is unchanged."""
        left = self._state.changed_on(self._model)
        return PromiseRecord.failed(UNDO, name, left) if left else self._same(UNDO, name, brief)

    def _same(self, promise: str, name: str, brief: bool = False) -> PromiseRecord:
        note = "the outputs of the unpruned model differ from run to run" if self._tolerance else ""
        difference = largest_difference(self._reference, self._trial.outputs(brief))
        return PromiseRecord.of(promise, name, difference, self._tolerance, note)
