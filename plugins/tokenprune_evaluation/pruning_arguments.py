# SPDX-License-Identifier: Apache-2.0
"""Parse and validate pruning arguments that are text, before any model is loaded.

They come from lmms-eval's `--model_args`, which converts numbers and booleans and passes everything else as
strings, and from the command line, where a name has its options behind it. Lists `[192,64]` and schedules
`{3:66,7:30}` are written in the same way in both.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import tokenprune
from tokenprune import InputError
from tokenprune.strategy import check_options

UNPRUNED = "unpruned"
ROLES = ("method", "scorer", "selector", "reducer")
APPLY_ARGUMENTS = tuple(inspect.signature(tokenprune.apply).parameters)[1:]  # all but the model
COMMA = re.compile(r",(?![^\[{]*[\]}])")  # outside of lists and schedules
SETTING = "setting"  # a file of `tokenprune calibrate`


def read_pruning(arguments: Mapping[str, Any], loading: tuple[str, ...] = ()) -> dict[str, Any] | None:
    """Convert model arguments to those of `tokenprune.apply`; None for `method=unpruned`.

    `setting=FILE` is returned as the CalibratedSetting in that file, which the model must match.

    Arguments that `apply` does not take are options of the named strategies, as in
    `method=zoo-prune,n_directions=16`.

    Parameters
    ----------
    arguments
        Arguments as lmms-eval passes them.
    loading
        Names of the other arguments, for the error message.

    Raises
    ------
    TokenPruneError
        If a name or an option does not exist, a budget is invalid, or arguments contradict each other.
    """
    values = {name: read_value(value) for name, value in arguments.items()}
    if values.get("method") == UNPRUNED:
        values.pop("method")
        if values:
            raise InputError(f"method={UNPRUNED} cannot be combined with {', '.join(sorted(values))}")
        return None
    if SETTING in values:
        path = values.pop(SETTING)
        if values:
            raise InputError(
                f"{SETTING}={path} has the method and its budget; it cannot be combined with "
                f"{', '.join(sorted(values))}"
            )
        return {SETTING: tokenprune.CalibratedSetting.load(path)}
    strategies = {role: _look_up(role, values[role]) for role in ROLES if values.get(role) is not None}
    named_strategies = [strategy for listed in strategies.values() for strategy in listed]
    options = {name: value for name, value in values.items() if name not in APPLY_ARGUMENTS}
    known = {name for strategy in named_strategies for name in option_names(strategy)}
    accepted = (*loading, *APPLY_ARGUMENTS, SETTING, *sorted(known - set(APPLY_ARGUMENTS)))
    check_options("--model tokenprune", options, accepted)
    if options and len(strategies.get("method", ())) > 1:
        raise InputError(f"{', '.join(options)}: options require a single method, not a list")
    for role, listed in strategies.items():
        configured = []
        for strategy in listed:
            strategy_options = {
                name: value for name, value in options.items() if name in option_names(strategy)
            }
            configured.append(strategy.with_options(**strategy_options))
        values[role] = configured[0] if len(configured) == 1 else configured
    _check_budget(values)
    return {name: value for name, value in values.items() if name in APPLY_ARGUMENTS and value is not None}


def read_value(value: Any) -> Any:
    """Parse a string: `None`, a list `[a,b]` or a mapping `{1:2}`; other values are returned unchanged."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text[:1] + text[-1:] == "[]":
        return [_scalar(part) for part in text[1:-1].split(",") if part.strip()]
    if text[:1] + text[-1:] == "{}":
        pairs = [part.partition(":") for part in text[1:-1].split(",") if part.strip()]
        if not all(colon for _, colon, _ in pairs):
            raise InputError(f"a schedule has the form {{layer:rows,layer:rows}}, got {text}")
        return {_scalar(key): _scalar(item) for key, _, item in pairs}
    return None if text.lower() == "none" else text


def read_text(text: str) -> Any:
    """Parse a string as lmms-eval and `read_value` do: also numbers, `true` and `false`."""
    value = read_value(text)
    if not isinstance(value, str):
        return value
    return value.lower() == "true" if value.lower() in ("true", "false") else _scalar(value)


def split_options(text: str) -> tuple[str, dict[str, Any]]:
    """Parse a name with its options, as in `zoo-prune,n_directions=16`.

    Raises
    ------
    InputError
        If an option is not `name=value`, or is given twice.
    """
    name, *parts = COMMA.split(text)
    options: dict[str, Any] = {}
    for part in parts:
        option, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or not option:
            raise InputError(f"options must have the form NAME,option=value,option=value, got {text!r}")
        if option in options:
            raise InputError(f"the option {option!r} is given twice: {text!r}")
        options[option] = read_text(value)
    return name.strip(), options


def option_names(strategy: Any) -> set[str]:
    """Return the names of the options of a strategy, or of all parts of a method."""
    return set().union(*(part.options() for part in getattr(strategy, "parts", (strategy,))))


def _scalar(text: str) -> Any:
    text = text.strip().strip("'\"")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _look_up(role: str, names: Any) -> list[Any]:
    """Look up strategies or methods by name; only methods can be a list."""
    if isinstance(names, list) and role != "method":
        raise InputError(f"{role} takes one name, got a list")
    return [getattr(tokenprune, role)(name) for name in (names if isinstance(names, list) else [names])]


def _check_budget(values: Mapping[str, Any]) -> None:
    """Validate a single budget; `apply` validates lists and schedules."""
    keep, ratio = values.get("keep"), values.get("keep_ratio")
    if values.get("schedule") is None and not isinstance(keep, list) and not isinstance(ratio, list):
        tokenprune.Budget(keep, ratio)
