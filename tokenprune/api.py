# SPDX-License-Identifier: Apache-2.0
"""The public functions: `apply`, and lookup of strategies by name."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from .arguments import check_is_model, followers, methods_from_arguments, place_cut, read_budgets, seeded
from .budget import Budget
from .cut import Cut, position_rule
from .errors import BudgetError, IncompatibleError, OptionError
from .handle import PruningHandle, check_unpruned
from .methods import Method
from .option_types import check_one_of, check_parts, is_integer
from .registry import default_registry
from .restore import restored_on_error
from .schedule import Schedule
from .strategy import Reducer, Scorer, Selector
from .trimming import check_trimmed
from .variants import AUTO, NAMED, cut_of_variant

_APPLYING = threading.RLock()


def apply(
    model: nn.Module,
    *,
    method: str | Method | Sequence[str | Method] | None = None,
    scorer: str | Scorer | None = None,
    selector: str | Selector | None = None,
    reducer: str | Reducer | None = None,
    keep: int | Budget | Sequence[int | Budget] | None = None,
    keep_ratio: float | Sequence[float] | None = None,
    stage: str | None = None,
    layer: int | Sequence[int] | None = None,
    schedule: Schedule | Mapping[int, int] | None = None,
    budget: str | None = None,
    scope: str | None = None,
    newlines: str | None = None,
    positions: str | None = None,
    trim_early_cache: bool | None = None,
    variant: str = "named",
    min_tokens: int = 0,
    seed: int = 0,
    verify: bool = True,
    trace: bool = False,
) -> PruningHandle:
    """Prune a model's visual tokens in place; `generate` keeps working, and the handle undoes it.

    Parameters
    ----------
    model
        A model that an adapter supports, as loaded by ``from_pretrained``.
    method
        A name or a Method, or a list of them with a list of budgets for several cuts. Without a method,
        `scorer` and `selector` are combined; they default to `uniform` and `topk`. With none of these, the
        method is `zoo-exact`.
    keep, keep_ratio
        Visual tokens to keep per image, or the share of them in (0, 1], rounded half up and at least 1.
        Give exactly one of the two. A `keep` of all tokens or more changes nothing. With a rule,
        ``keep=tokenprune.cover(0.2)``, the number depends on the picture.
    stage, scope, newlines, positions
        Override the method's own choice; see `Method`.
    trim_early_cache
        The same of the cut in the decoder: whether dropped tokens also leave the caches of earlier layers.
    layer
        Decoder layer (or block of a vision tower), or a list of them, before which tokens are cut. A scorer
        and a selector given with a layer cut in the decoder.
    schedule
        ``{layer: rows left from there on}`` or a Schedule, in place of the method's own. A mapping sets the
        budget itself, so `keep` must not be given with it.
    budget
        What `keep` counts in the decoder: `"rows"` left after the last cut, the `"average"` of rows entering
        a layer, or the nominal budget of the method's `"paper"`.
    variant
        `"named"`: exactly the method that is named. `"auto"`: if the model cannot be pruned with it, its
        variant, such as `visionzip-received` for `visionzip` on towers without a CLS token.
    min_tokens
        Images with fewer visual tokens are not pruned.
    seed
        Seed of strategies that draw random numbers.
    verify
        Rehearse the cut on a few rows before the model is modified (about the cost of a decoding step), and
        raise if its cache, masks or positions do not behave as expected. `PruningHandle.rehearsal` describes
        what was measured.
    trace
        Record what each call does at each boundary, for `PruningHandle.trace`. Synchronizes with the device;
        meant for debugging.

    Raises
    ------
    UnknownNameError, OptionError, BudgetError, UnsupportedModelError, IncompatibleError, AlreadyPrunedError
        Before the model is modified; the message says what to do.
    """
    registry = default_registry()
    check_is_model(model)
    if not is_integer(min_tokens) or min_tokens < 0:
        raise BudgetError(f"min_tokens must be an integer, 0 or more, got {min_tokens!r}")
    if not isinstance(verify, bool):
        raise OptionError(f"verify must be True or False, got {verify!r}")
    if not isinstance(trace, bool):
        raise OptionError(f"trace must be True or False, got {trace!r}")
    min_tokens = int(min_tokens)
    check_one_of("variant", variant, (NAMED, AUTO))
    methods = methods_from_arguments(method, scorer, selector, reducer)
    budgets = read_budgets(keep, keep_ratio, schedule, budget, len(methods))
    with _APPLYING:  # a single lock, because models may share modules
        check_unpruned(model)
        adapter = registry.adapter_for(model)(model)
        if trace and not adapter.can_trace:
            raise IncompatibleError(f"the adapter {adapter.name!r} records no traces; leave trace=True out")
        adapter.check_model()
        overrides = {"scope": scope, "newlines": newlines, "positions": positions, "budget": budget}
        cuts = []
        options = {name: value for name, value in overrides.items() if value is not None}

        def cut_of(requested: Method, method_budget: Budget, placed_here: bool = True) -> Cut:
            where = (stage, layer, schedule) if placed_here else (None, None, None)
            placed = place_cut(requested, *where, len(methods), adapter)
            placed = placed.with_options(**options)
            if trim_early_cache is False or (trim_early_cache is not None and placed.stage == "decoder"):
                placed = placed.with_options(trim_early_cache=trim_early_cache)
            rule = position_rule(placed, positions, adapter.positions)
            cut = Cut(seeded(placed, seed), method_budget, min_tokens, rule)
            adapter.check(cut)
            for part in placed.parts:
                check_parts(f"{part.kind} {part.name!r}", part)
                part.check(model)
            return cut

        for requested, method_budget in zip(methods, budgets, strict=True):
            make = functools.partial(cut_of, method_budget=method_budget)
            cuts.append(cut_of_variant(requested, variant, make))
            for follower in followers(requested):
                make = functools.partial(cut_of, method_budget=method_budget, placed_here=False)
                cuts.append(cut_of_variant(follower, variant, make))
        adapter.check_together(cuts)
        check_trimmed([cut.method for cut in cuts], trim_early_cache, adapter.name, adapter.can_trim)
        with restored_on_error(model):
            rehearsal = adapter.rehearse(cuts) if verify else "not rehearsed: verify=False"
        handle = PruningHandle(model, cuts, rehearsal, trace, adapter.name)
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
    preset: Method = default_registry().find("method", name)
    return preset.with_options(**options)


def list_scorers() -> list[str]:
    """Return the names of all scorers."""
    return default_registry().names("scorer")


def list_selectors() -> list[str]:
    """Return the names of all selectors."""
    return default_registry().names("selector")


def list_reducers() -> list[str]:
    """Return the names of all reducers."""
    return default_registry().names("reducer")


def list_methods() -> list[str]:
    """Return the names of all methods."""
    return default_registry().names("method")


def list_adapters() -> list[str]:
    """Return the names of all model adapters."""
    return default_registry().names("adapter")
