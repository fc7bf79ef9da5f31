# SPDX-License-Identifier: Apache-2.0
"""The public verbs: `apply`, and looking strategies up by name."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from .arguments import combine, place, read_budgets, seeded
from .boundaries import TraceRecorder
from .cut import Cut, position_rule
from .errors import BudgetError, IncompatibleError, OptionError, UnsupportedModelError
from .handle import PruningHandle, check_unpruned
from .methods import Method
from .option_types import check_parts
from .registry import default_registry
from .restore import restored_on_error
from .schedule import Schedule
from .strategy import Reducer, Scorer, Selector

_APPLYING = threading.RLock()


def apply(
    model: nn.Module,
    *,
    method: str | Method | Sequence[str | Method] | None = None,
    scorer: str | Scorer | None = None,
    selector: str | Selector | None = None,
    reducer: str | Reducer | None = None,
    keep: int | Sequence[int] | None = None,
    keep_ratio: float | Sequence[float] | None = None,
    stage: str | None = None,
    layer: int | Sequence[int] | None = None,
    schedule: Schedule | Mapping[int, int] | None = None,
    budget: str | None = None,
    scope: str | None = None,
    newlines: str | None = None,
    positions: str | None = None,
    min_tokens: int = 0,
    seed: int = 0,
    verify: bool = True,
    trace: bool = False,
) -> PruningHandle:
    """Make a model drop visual tokens; `generate` goes on working, and the handle undoes it.

    Parameters
    ----------
    model
        A model some adapter knows, as loaded by ``from_pretrained``.
    method
        A name or a Method; a list of them, with a list of budgets, cuts several times. Without a method a
        scorer and a selector are combined: a scorer alone means `topk`, a selector alone `uniform`, nothing
        at all the method `zoo-exact`.
    keep, keep_ratio
        Visual tokens to keep per image, or the share of them in (0, 1], rounded half up and at least 1.
        Exactly one of the two. `keep` of all tokens or more changes nothing.
    stage, scope, newlines, positions
        Override the method's own choice; see `Method`.
    layer
        At a stage with layers: the cut is made before this one (before each of several). A scorer and a
        selector with a layer cut in the decoder.
    schedule
        {layer: rows left from there on}, or a Schedule, instead of the method's own; a mapping says the
        budget, so no `keep` goes with it.
    budget
        What `keep` counts in the decoder: `"rows"` left after the last cut, the `"average"` of rows entering
        a layer, or the nominal budget of the method's `"paper"`.
    min_tokens
        Images with fewer visual tokens are left alone.
    seed
        For strategies that draw random numbers.
    verify
        Try the cut on a few rows before the model is touched (about a decoding step), and refuse a model
        whose cache, masks or positions would be misunderstood. `PruningHandle.rehearsal` says what was
        measured.
    trace
        Record what each call does at each boundary, for `PruningHandle.trace`. It waits for the device, and
        is meant for debugging.

    Raises
    ------
    UnknownNameError, OptionError, BudgetError, UnsupportedModelError, IncompatibleError, AlreadyPrunedError
        Before the model is touched; each says what to do.
    """
    registry = default_registry()
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"apply() takes a torch model, got {type(model).__name__}")
    if isinstance(min_tokens, bool) or not isinstance(min_tokens, int) or min_tokens < 0:
        raise BudgetError(f"min_tokens must be a whole number, 0 or more, got {min_tokens!r}")
    if not isinstance(verify, bool):
        raise OptionError(f"verify is True or False, got {verify!r}")
    if not isinstance(trace, bool):
        raise OptionError(f"trace is True or False, got {trace!r}")
    methods = combine(method, scorer, selector, reducer)
    budgets = read_budgets(keep, keep_ratio, schedule, budget, len(methods))
    with _APPLYING:  # models may share modules, so that one lock a model would not do
        check_unpruned(model)
        adapter = registry.adapter_for(model)(model)
        if trace and not adapter.can_trace:
            raise IncompatibleError(f"the adapter {adapter.name!r} records no traces; leave trace=True out")
        adapter.check_model()
        overrides = {"scope": scope, "newlines": newlines, "positions": positions, "budget": budget}
        cuts = []
        for one, rows in zip(methods, budgets, strict=True):
            one = place(one, stage, layer, schedule, len(methods), adapter)
            one = one.with_options(**{name: value for name, value in overrides.items() if value is not None})
            rule = position_rule(one, positions, adapter.positions)
            cuts.append(Cut(seeded(one, seed), rows, min_tokens, rule))
            adapter.check(cuts[-1])
            for part in one.parts:
                check_parts(f"{part.kind} {part.name!r}", part)
                part.check(model)
        adapter.check_together(cuts)
        with restored_on_error(model):
            rehearsal = adapter.rehearse(cuts) if verify else "not rehearsed: verify=False"
        handle = PruningHandle(model, cuts, rehearsal, TraceRecorder() if trace else None)
        adapter.record_trace = handle.record_trace
        handle.install(lambda record: adapter.install(cuts, record))
        return handle


def scorer(name: str, **options: Any) -> Scorer:
    """Return the scorer of that name, with options."""
    return default_registry().scorer(name).with_options(**options)


def selector(name: str, **options: Any) -> Selector:
    """Return the selector of that name, with options."""
    return default_registry().selector(name).with_options(**options)


def reducer(name: str, **options: Any) -> Reducer:
    """Return the reducer of that name, with options."""
    return default_registry().reducer(name).with_options(**options)


def method(name: str, **options: Any) -> Method:
    """Return the method of that name, with options of its own or of its parts."""
    found: Method = default_registry().find("method", name)
    return found.with_options(**options)


def list_scorers() -> list[str]:
    """Names of all scorers."""
    return default_registry().names("scorer")


def list_selectors() -> list[str]:
    """Names of all selectors."""
    return default_registry().names("selector")


def list_reducers() -> list[str]:
    """Names of all reducers."""
    return default_registry().names("reducer")


def list_methods() -> list[str]:
    """Names of all methods."""
    return default_registry().names("method")


def list_adapters() -> list[str]:
    """Names of all model adapters."""
    return default_registry().names("adapter")
