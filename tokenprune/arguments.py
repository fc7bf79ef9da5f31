# SPDX-License-Identifier: Apache-2.0
"""Reading the arguments of `apply`: which methods, where they cut, how much they keep."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any

from .adapter import ModelAdapter
from .budget import Budget
from .errors import BudgetError, OptionError
from .methods import Method
from .registry import default_registry
from .schedule import ExplicitSchedule, GeometricSchedule, Schedule

DEFAULT_METHOD = "zoo-exact"


def combine(given: Any, scorer: Any, selector: Any, reducer: Any) -> list[Method]:
    """Turn the arguments of `apply` into methods whose parts are objects."""
    registry = default_registry()
    parts = [part for part in (scorer, selector, reducer) if part is not None]
    if given is not None and parts:
        raise OptionError("give either method or scorer/selector/reducer, not both")
    if given is None and not parts:
        given = DEFAULT_METHOD
    if given is None:
        pair = (
            registry.scorer("uniform" if scorer is None else scorer),
            registry.selector("topk" if selector is None else selector),
            None if reducer is None else registry.reducer(reducer),
        )
        name = "+".join(part.name for part in pair if part is not None)
        return [Method(name=name, scorer=pair[0], selector=pair[1], reducer=pair[2])]
    many = list(given) if isinstance(given, (list, tuple)) else [given]
    if not many:
        raise OptionError("method=[] names no method")
    methods = [one if isinstance(one, Method) else registry.find("method", one) for one in many]
    return [method.resolved() for method in methods]


def read_budgets(keep: Any, keep_ratio: Any, schedule: Any, budget: Any, n: int) -> list[Budget]:
    """Make one budget for each method; a {layer: rows} leaves nothing for `budget` to count."""
    if schedule is not None and not isinstance(schedule, (Mapping, Schedule)):
        raise OptionError(f"schedule is {{layer: rows}} or a tokenprune.Schedule, got {schedule!r}")
    if isinstance(schedule, Mapping):
        if keep is not None or keep_ratio is not None:
            raise BudgetError(
                "a schedule {layer: rows} says how many rows stay; give no keep or keep_ratio with it"
            )
        if budget not in (None, "rows"):
            raise OptionError(
                f"budget={budget!r} says what keep counts, and a schedule {{layer: rows}} takes no keep; "
                "leave budget out"
            )
        return [Budget(ExplicitSchedule.from_mapping(schedule).rows[-1])] * n
    if not isinstance(keep, (list, tuple)) and not isinstance(keep_ratio, (list, tuple)):
        if n > 1:
            raise BudgetError(f"{n} methods need a list of {n} budgets, e.g. keep=[192, 64]")
        return [Budget(keep, keep_ratio)]
    Budget(*(1 if isinstance(x, (list, tuple)) else x for x in (keep, keep_ratio)))  # exactly one of the two
    name, many = ("keep", keep) if keep is not None else ("keep_ratio", keep_ratio)
    if len(many) != n:
        given = f"{n} method{'s were' if n > 1 else ' was'} given, and {name}={list(many)}"
        raise BudgetError(
            f"a list of budgets holds one for each method, not one for each image: {given}. All images of a "
            "call have the same keep; keep_ratio= gives each a share of its own tokens, and images with "
            "budgets of their own go into calls of their own, with apply() before each"
        )
    budgets = [Budget(one, None) if keep is not None else Budget(None, one) for one in many]
    if keep is not None and any(b > a for a, b in zip(many, many[1:], strict=False)):
        raise BudgetError(f"the budgets of several cuts must fall, got keep={list(many)}")
    return budgets


def place(method: Method, stage: Any, layer: Any, schedule: Any, n: int, adapter: ModelAdapter) -> Method:
    """Say where a method cuts: its stage, and before which layers."""
    if n > 1 and (stage is not None or layer is not None or schedule is not None):
        raise OptionError(
            "stage, layer and schedule go with a single method; give Method objects that carry their own"
        )
    in_layers = [name for name in ("vision", "decoder") if name in adapter.provides]
    if (
        stage is None
        and (layer is not None or schedule is not None)
        and method.stage not in in_layers
        and in_layers
    ):
        stage = in_layers[-1]
    if stage is not None and stage != method.stage:
        method = dataclasses.replace(method, stage=stage)
        if stage == "decoder":  # there are no tiles any more, and newline tokens are tokens
            method = dataclasses.replace(method, scope="image", newlines="compete")
    if layer is not None and schedule is not None:
        raise OptionError("give either layer or schedule, not both")
    if schedule is not None:
        chosen = schedule if isinstance(schedule, Schedule) else ExplicitSchedule.from_mapping(schedule)
        return dataclasses.replace(method, schedule=chosen)
    if layer is None:
        return method
    layers = tuple(layer) if isinstance(layer, (list, tuple)) else (layer,)
    if not layers or any(isinstance(one, bool) or not isinstance(one, int) for one in layers):
        raise OptionError(
            f"layer is a decoder layer's number (counted from 0) or a list of them, got {layer!r}"
        )
    if method.schedule is None:
        return dataclasses.replace(method, schedule=GeometricSchedule(layers, depth=None))
    return dataclasses.replace(method, schedule=method.schedule.at(*layers))


def seeded(method: Method, seed: int) -> Method:
    """Give the seed to every part that takes one and still has its default.

    Raises
    ------
    OptionError
        When it, or a part's own, is no number a generator takes.
    """
    check_seed(seed)
    changed = {}
    for role in ("scorer", "selector", "reducer"):
        part = getattr(method, role)
        if part is not None and "seed" in part.options():
            if part.seed == 0:
                changed[role] = part.with_options(seed=seed)
            elif isinstance(part.seed, numbers.Integral):
                check_seed(part.seed)
    return dataclasses.replace(method, **changed)


def check_seed(seed: Any) -> None:
    """Refuse what torch's generators do not take."""
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise OptionError(f"seed must be a whole number, got {seed!r}")
    if not 0 <= int(seed) < 2**63:
        raise OptionError(f"seed must lie between 0 and 2**63 - 1, got {seed}")
