# SPDX-License-Identifier: Apache-2.0
"""The public verbs: `apply`, and looking strategies up by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import nn

from .adapter import Cut
from .budget import Budget
from .errors import AlreadyPrunedError, BudgetError, OptionError, UnsupportedModelError
from .handle import PruningHandle, is_pruned
from .methods import Method
from .registry import default_registry
from .strategy import Reducer, Scorer, Selector

DEFAULT_METHOD = "zoo-exact"


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
    scope: str | None = None,
    newlines: str | None = None,
    positions: str | None = None,
    min_tokens: int = 0,
    seed: int = 0,
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
    min_tokens
        Images with fewer visual tokens are left alone.
    seed
        For strategies that draw random numbers.

    Raises
    ------
    UnknownNameError, OptionError, BudgetError, UnsupportedModelError, IncompatibleError, AlreadyPrunedError
        Before the model is touched; each says what to do.
    """
    registry = default_registry()
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"apply() takes a torch model, got {type(model).__name__}")
    if is_pruned(model):
        raise AlreadyPrunedError("this model is already pruned; call remove() on its handle first")
    if isinstance(min_tokens, bool) or not isinstance(min_tokens, int) or min_tokens < 0:
        raise BudgetError(f"min_tokens must be a whole number, 0 or more, got {min_tokens!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise OptionError(f"seed must be a whole number, got {seed!r}")
    overrides = {"stage": stage, "scope": scope, "newlines": newlines, "positions": positions}
    overrides = {name: value for name, value in overrides.items() if value is not None}
    methods = _methods(method, scorer, selector, reducer)
    budgets = _budgets(keep, keep_ratio, len(methods))
    adapter = registry.adapter_for(model)(model)
    cuts = []
    for one, budget in zip(methods, budgets, strict=True):
        chosen = _seeded(one.with_options(**overrides), seed)
        cuts.append(Cut(chosen, budget, min_tokens))
        adapter.check(cuts[-1])
    handle = PruningHandle(model, cuts)
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


def _methods(given: Any, scorer: Any, selector: Any, reducer: Any) -> list[Method]:
    """Turn the arguments into Method objects."""
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
    return [one if isinstance(one, Method) else registry.find("method", one) for one in many]


def _budgets(keep: Any, keep_ratio: Any, n: int) -> list[Budget]:
    """Make one budget for each method."""
    if not isinstance(keep, (list, tuple)) and not isinstance(keep_ratio, (list, tuple)):
        if n > 1:
            raise BudgetError(f"{n} methods need a list of {n} budgets, e.g. keep=[192, 64]")
        return [Budget(keep, keep_ratio)]
    Budget(*(1 if isinstance(x, (list, tuple)) else x for x in (keep, keep_ratio)))  # exactly one of the two
    many = keep if keep is not None else keep_ratio
    if len(many) != n:
        raise BudgetError(f"{n} method(s) but {len(many)} budgets; give one budget for each method")
    return [Budget(one, None) if keep is not None else Budget(None, one) for one in many]


def _seeded(method: Method, seed: int) -> Method:
    """Give the seed to every part that takes one and still has its default."""
    changed = {}
    for role in ("scorer", "selector", "reducer"):
        part = getattr(method, role)
        if part is not None and "seed" in part.options() and part.seed == 0:
            changed[role] = part.with_options(seed=seed)
    return dataclasses.replace(method, **changed)
