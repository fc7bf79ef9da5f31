# SPDX-License-Identifier: Apache-2.0
"""Parse the arguments of `apply`: which methods, where they cut, how much they keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from .adapter import ModelAdapter
from .budget import Budget
from .covering import Cover
from .errors import BudgetError, IncompatibleError, OptionError, UnsupportedModelError
from .methods import Method
from .option_types import is_integer
from .registry import default_registry
from .schedule import ExplicitSchedule, GeometricSchedule, Schedule, at_layers

DEFAULT_METHOD = "zoo-exact"
A_THIRD = GeometricSchedule((1,), depth=3)  # where a vision tower is cut if no block is named


def check_is_model(model: object) -> None:
    """Refuse objects that are no torch model; for one that holds a model, such as a pipeline, name it."""
    if isinstance(model, nn.Module):
        return
    holds = isinstance(getattr(model, "model", None), nn.Module)
    remedy = "pass its .model" if holds else "load one, for example with from_pretrained"
    raise UnsupportedModelError(f"apply() takes a torch model, got {type(model).__name__}; {remedy}")


def methods_from_arguments(method: Any, scorer: Any, selector: Any, reducer: Any) -> list[Method]:
    """Return the methods that the arguments of `apply` ask for, with names resolved to strategies."""
    registry = default_registry()
    parts = [part for part in (scorer, selector, reducer) if part is not None]
    if method is not None and parts:
        raise OptionError("give either method or scorer/selector/reducer, not both")
    if method is None and not parts:
        method = DEFAULT_METHOD
    if method is None:
        pair = (
            registry.scorer("uniform" if scorer is None else scorer),
            registry.selector("topk" if selector is None else selector),
            None if reducer is None else registry.reducer(reducer),
        )
        name = "+".join(part.name for part in pair if part is not None)
        return [Method(name=name, scorer=pair[0], selector=pair[1], reducer=pair[2])]
    requested = list(method) if isinstance(method, (list, tuple)) else [method]
    if not requested:
        raise OptionError("method=[] is empty; give at least one method")
    methods = [item if isinstance(item, Method) else registry.find("method", item) for item in requested]
    return [method.resolved() for method in methods]


def read_budgets(keep: Any, keep_ratio: Any, schedule: Any, budget: Any, n: int) -> list[Budget]:
    """Return one budget for each method; a mapping {layer: rows} excludes `keep`, and `budget` units."""
    if schedule is not None and not isinstance(schedule, (Mapping, Schedule)):
        raise OptionError(f"schedule must be {{layer: rows}} or a tokenprune.Schedule, got {schedule!r}")
    if isinstance(schedule, Mapping):
        if keep is not None or keep_ratio is not None:
            raise BudgetError(
                "a schedule {layer: rows} sets how many rows are kept; leave out keep and keep_ratio"
            )
        if budget not in (None, "rows"):
            raise OptionError(
                f"budget={budget!r} sets what keep counts, but a schedule {{layer: rows}} has no keep; "
                "leave out budget"
            )
        return [Budget(ExplicitSchedule.from_mapping(schedule).rows[-1])] * n
    if not isinstance(keep, (list, tuple)) and not isinstance(keep_ratio, (list, tuple)):
        if n > 1:
            raise BudgetError(f"{n} methods need a list of {n} budgets, e.g. keep=[192, 64]")
        return [_budget(keep, keep_ratio)]
    _budget(*(1 if isinstance(x, (list, tuple)) else x for x in (keep, keep_ratio)))  # exactly one of the two
    name, values = ("keep", keep) if keep is not None else ("keep_ratio", keep_ratio)
    if len(values) != n:
        given = f"{n} method{'s were' if n > 1 else ' was'} given, and {name}={list(values)}"
        raise BudgetError(
            f"a list of budgets holds one for each method, not one for each image: {given}. All images of a "
            "call have the same keep. Use keep_ratio= to keep a share of each image's tokens, or separate "
            "calls, with apply() before each, for images with different budgets"
        )
    budgets = [_budget(**{name: value}) for value in values]
    counts = [budget.keep for budget in budgets if budget.keep is not None]
    if any(b > a for a, b in zip(counts, counts[1:], strict=False)):
        raise BudgetError(f"the budgets of several cuts must not increase, got keep={list(values)}")
    return budgets


def _budget(keep: Any = None, keep_ratio: Any = None) -> Budget:
    """Return the budget of one method; `keep` may be one already, such as `tokenprune.cover` returns."""
    if not isinstance(keep, (Budget, Cover)):
        return Budget(keep, keep_ratio)
    if keep_ratio is not None:
        raise BudgetError(f"give either {Budget.of(keep)} or keep_ratio={keep_ratio}, not both")
    return Budget.of(keep)


def place_cut(method: Method, stage: Any, layer: Any, schedule: Any, n: int, adapter: ModelAdapter) -> Method:
    """Return the method with the stage, layers and schedule given to `apply`."""
    if n > 1 and (stage is not None or layer is not None or schedule is not None):
        raise OptionError(
            "stage, layer and schedule apply to a single method; give Method objects that have their own"
        )
    is_bare_tower = adapter.default_stage == "vision"
    if stage is None and (layer is not None or schedule is not None):
        if method.stage == "projector" or is_bare_tower:
            stage = stage_of_layers(adapter)
    if stage is not None and stage != method.stage:
        if method.then is not None:
            raise OptionError(
                f"method {method.name!r} cuts at the stage {method.stage!r}, and then at another one; leave "
                "stage= out"
            )
        method = dataclasses.replace(method, stage=stage)
        if stage == "decoder":  # where tiles are gone and newline tokens are ordinary tokens
            method = dataclasses.replace(method, scope="image", newlines="compete")
    if layer is not None and schedule is not None:
        raise OptionError("give either layer or schedule, not both")
    if schedule is not None:
        chosen = schedule if isinstance(schedule, Schedule) else ExplicitSchedule.from_mapping(schedule)
        return dataclasses.replace(method, schedule=chosen)
    if layer is None:
        if method.stage == "vision" and method.schedule is None and not is_bare_tower:
            return dataclasses.replace(method, schedule=A_THIRD)
        return method
    return dataclasses.replace(method, schedule=at_layers(method.schedule, layer))


def followers(method: Method) -> list[Method]:
    """Return the method that cuts further what this one leaves, if there is one, with its strategies."""
    if method.then is None:
        return []
    then = method.then
    found = then if isinstance(then, Method) else default_registry().find("method", then)
    return [found.resolved()]


def stage_of_layers(adapter: ModelAdapter) -> str:
    """Return the stage that `layer` and `schedule` refer to without a stage: the decoder, or a bare tower.

    Raises
    ------
    IncompatibleError
        When a model can only be cut inside its vision tower, which must be asked for.
    """
    if adapter.default_stage == "vision":
        return "vision"
    if "decoder" in adapter.provides:
        return "decoder"
    tower = "; for blocks of its vision tower give stage='vision' too" if "vision" in adapter.provides else ""
    raise IncompatibleError(
        f"layer= and schedule= name decoder layers, and the adapter {adapter.name!r} cannot cut there for "
        f"this {type(adapter.model).__name__}. Leave them out{tower}"
    )


def seeded(method: Method, seed: int) -> Method:
    """Return the method with `seed` set on every part that has a seed and still has its default.

    Raises
    ------
    OptionError
        When `seed`, or a part's own seed, is not accepted by torch's generators.
    """
    check_seed(seed)
    changed: dict[str, Any] = {}
    for role in ("scorer", "selector", "reducer"):
        part = getattr(method, role)
        if part is not None and "seed" in part.options():
            if part.seed == 0:
                changed[role] = part.with_options(seed=int(seed))
            elif is_integer(part.seed):
                check_seed(part.seed)
                changed[role] = part.with_options(seed=int(part.seed))
    return dataclasses.replace(method, **changed)


def check_seed(seed: Any) -> None:
    """Raise for a seed that torch's generators do not accept."""
    if not is_integer(seed):
        raise OptionError(f"seed must be an integer, got {seed!r}")
    if not 0 <= int(seed) < 2**63:
        raise OptionError(f"seed must lie between 0 and 2**63 - 1, got {seed}")
