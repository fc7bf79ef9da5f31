# SPDX-License-Identifier: Apache-2.0
"""Strategies with their options on the command line, and where they cut, checked before a model is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from tokenprune_evaluation.errors import BadInputError
from tokenprune_evaluation.pruning_arguments import option_names, read_text, split_options

import tokenprune

APPLIED = ("scope", "newlines", "budget", "schedule")  # of `apply`, which may follow the name of a method


def strategy_arguments(
    named: Mapping[str, str | None], places: Mapping[str, Any], seed: int | None
) -> dict[str, Any]:
    """Return arguments of `tokenprune.apply`.

    Parameters
    ----------
    named
        Text by role (`method`, `scorer`, `selector`, `reducer`): a name, or one with options as in
        `zoo-prune,n_directions=16`.
    places
        `stage`, `layer` and `positions` as `apply` takes them; None where they are not given.
    seed
        That of `--seed`, or None.

    Raises
    ------
    TokenPruneError, BadInputError
        For names, options and values that do not exist, and for roles that exclude each other.
    """
    if named["method"] is not None and any(named[role] is not None for role in named if role != "method"):
        raise BadInputError("give either --method, or --scorer, --selector and --reducer, not both")
    arguments = {name: value for name, value in places.items() if value is not None}
    for role, text in named.items():
        if text is None:
            continue
        name, options = split_options(text)
        strategy = getattr(tokenprune, role)(name)
        _check_names(role, name, options, option_names(strategy))
        if seed is not None and "seed" in options:
            raise BadInputError(f"give either --seed or the option seed of the {role}, not both")
        arguments |= {option: options.pop(option) for option in APPLIED if option in options}
        arguments[role] = strategy.with_options(**options)
    _check_values(arguments)
    return {**arguments, "seed": seed or 0}


def layers(text: str | None) -> int | list[int] | None:
    """Return the layer of `--layer 8`, or the layers of `--layer 4,8`."""
    if text is None:
        return None
    parts = [read_text(part) for part in text.strip("[]").split(",")]
    if not all(type(part) is int and part >= 0 for part in parts):
        raise BadInputError(
            f"--layer must be the index of a layer, from 0, or several as in 4,8; got {text!r}"
        )
    return parts[0] if len(parts) == 1 else parts


def _check_names(role: str, name: str, options: Mapping[str, Any], own: set[str]) -> None:
    accepted = own | (set(APPLIED) if role == "method" else set())
    unknown = [option for option in options if option not in accepted]
    if not unknown:
        return
    if unknown[0] in inspect.signature(tokenprune.apply).parameters:
        raise BadInputError(
            f"{unknown[0]} is no option of the {role} {name!r}; see tokenprune run --help for what is given "
            "by an option of its own"
        )
    listed = ", ".join(sorted(accepted)) or "no options"
    raise BadInputError(f"{role} {name!r} has no option {unknown[0]!r}; it has {listed}")


def _check_values(arguments: Mapping[str, Any]) -> None:
    """Check the values that `apply` would refuse after the model is loaded."""
    fields = ("stage", "positions", "scope", "newlines", "budget")
    method = tokenprune.Method("method", **{name: arguments[name] for name in fields if name in arguments})
    if "layer" in arguments:
        method.with_options(layer=arguments["layer"])
    schedule = arguments.get("schedule")
    if schedule is None:
        return
    if not isinstance(schedule, Mapping):
        raise BadInputError(f"a schedule has the form {{layer:rows,layer:rows}}, got {schedule!r}")
    if "layer" in arguments:
        raise BadInputError("give either --layer or a schedule, not both")
    tokenprune.ExplicitSchedule.from_mapping(schedule)
