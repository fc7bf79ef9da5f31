# SPDX-License-Identifier: Apache-2.0
"""Methods by a text that also has their options, as in `zoo-prune,n_directions=16`.

Commands that measure several methods name each by such a text, so that a method with two values of an option
is two methods in their tables.
"""

from __future__ import annotations

from typing import Any

import tokenprune
from tokenprune_evaluation.errors import BadInputError
from tokenprune_evaluation.pruning_arguments import option_names, split_options

SEED = "seed"


def method_named(text: str) -> tokenprune.Method:
    """Return the method of a text, with its options.

    Raises
    ------
    TokenPruneError, BadInputError
        If there is no such method or option, or an option has another type or is given twice.
    """
    name, options = name_and_options(text)
    return tokenprune.method(name, **options)


def name_and_options(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name of the method and its options; raises as `method_named` does.

    Options are those of the method's strategies, `trim_early_cache`, and, where the method has them, `layer`
    and `at_least`. The seed and what is the same for all methods of a table are given by options of the
    command.
    """
    name, options = split_options(text)
    method = tokenprune.method(name)
    if SEED in options:
        raise BadInputError(
            f"{text!r}: the seed of a method cannot be given here; use --seed where the command has it"
        )
    accepted = sorted(_accepted(method))
    unknown = [option for option in options if option not in accepted]
    if unknown:
        raise BadInputError(
            f"method {method.name!r} has no option {unknown[0]!r} here; it has {', '.join(accepted)}"
        )
    method.with_options(**options)  # checks the values
    return method.name, options


def text_of(name: str, options: dict[str, Any]) -> str:
    """Return the text of a method with options, in the order of their names; equal options, equal texts."""
    return ",".join([name, *(f"{option}={_written(options[option])}" for option in sorted(options))])


def plain_text(text: str) -> str:
    """Return the text in the form of `text_of`; raises as `method_named` does."""
    return text_of(*name_and_options(text))


def _accepted(method: tokenprune.Method) -> set[str]:
    accepted = {"trim_early_cache"} | (option_names(method) - {SEED})
    if method.stage != "projector":
        accepted.add("layer")
    if method.then is not None:
        accepted.add("at_least")
    return accepted


def _written(value: Any) -> str:
    """Write a value as `read_text` reads it; equal numbers are written in the same way."""
    if isinstance(value, list):
        return _written(value[0]) if len(value) == 1 else f"[{','.join(map(_written, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_written(item)}' for key, item in value.items())}}}"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
