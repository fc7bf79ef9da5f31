# SPDX-License-Identifier: Apache-2.0
"""What `--model_args` may say about pruning, read and looked up before any model is loaded.

lmms-eval hands over numbers, true and false as such, everything else as text: lists `[192,64]` and schedules
`{3:66,7:30}` are read here.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import tokenprune
from tokenprune import InputError
from tokenprune.strategy import check_options

UNPRUNED = "unpruned"
ROLES = ("method", "scorer", "selector", "reducer")
OF_APPLY = tuple(inspect.signature(tokenprune.apply).parameters)[1:]  # all but the model
EMBEDDED = "embedded"


def read_pruning(given: Mapping[str, Any], loading: tuple[str, ...] = ()) -> dict[str, Any] | None:
    """Turn model arguments into those of `tokenprune.apply`; None for `method=unpruned`.

    What is no argument of `apply` is an option of the strategies that are named, as in
    `method=zoo-prune,n_directions=16`.

    Parameters
    ----------
    given
        Arguments as lmms-eval hands them over.
    loading
        Names of further arguments, for the error message.

    Raises
    ------
    TokenPruneError
        A name or an option that does not exist, a budget that cannot be used, arguments that contradict.
    """
    values = {name: read_value(value) for name, value in given.items()}
    if values.get("method") == UNPRUNED:
        values.pop("method")
        if values:
            raise InputError(f"method={UNPRUNED} prunes nothing and takes no {', '.join(sorted(values))}")
        return None
    found = {role: _look_up(role, values[role]) for role in ROLES if values.get(role) is not None}
    named = [one for many in found.values() for one in many]
    options = {name: value for name, value in values.items() if name not in OF_APPLY}
    known = {name for one in named for name in option_names(one)}
    check_options("--model tokenprune", options, (*loading, *OF_APPLY, *sorted(known - set(OF_APPLY))))
    if options and len(found.get("method", ())) > 1:
        raise InputError(f"{', '.join(options)}: options of a method go with a single one, not with a list")
    for role, many in found.items():
        fitting = []
        for one in many:
            mine = {name: value for name, value in options.items() if name in option_names(one)}
            fitting.append(one.with_options(**mine))
        values[role] = fitting[0] if len(fitting) == 1 else fitting
    _check_budget(values)
    return {name: value for name, value in values.items() if name in OF_APPLY and value is not None}


def read_value(value: Any) -> Any:
    """Read a text as lmms-eval leaves it: `None`, a list `[a,b]`, a mapping `{1:2}`; others as they are."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text[:1] + text[-1:] == "[]":
        return [_scalar(part) for part in text[1:-1].split(",") if part.strip()]
    if text[:1] + text[-1:] == "{}":
        pairs = [part.partition(":") for part in text[1:-1].split(",") if part.strip()]
        if not all(colon for _, colon, _ in pairs):
            raise InputError(f"a schedule is written {{layer:rows,layer:rows}}, got {text}")
        return {_scalar(key): _scalar(rest) for key, _, rest in pairs}
    return None if text.lower() == "none" else text


def option_names(one: Any) -> set[str]:
    """Names of a strategy's options, or of those of a method's parts."""
    return set().union(*(part.options() for part in getattr(one, "parts", (one,))))


def _scalar(text: str) -> Any:
    text = text.strip().strip("'\"")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _look_up(role: str, given: Any) -> list[Any]:
    """Strategies or methods of these names; only methods come in lists."""
    if isinstance(given, list) and role != "method":
        raise InputError(f"{role} takes one name, got a list")
    return [getattr(tokenprune, role)(name) for name in (given if isinstance(given, list) else [given])]


def _check_budget(values: Mapping[str, Any]) -> None:
    """Refuse a single budget that cannot be used; lists and schedules are for `apply` to read."""
    keep, ratio = values.get("keep"), values.get("keep_ratio")
    if values.get("schedule") is None and not isinstance(keep, list) and not isinstance(ratio, list):
        tokenprune.Budget(keep, ratio)
