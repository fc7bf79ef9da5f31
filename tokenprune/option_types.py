# SPDX-License-Identifier: Apache-2.0
"""Numbers, texts and switches must be what a dataclass declares: told at once, not in a forward pass."""

from __future__ import annotations

import dataclasses
import numbers
import typing
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any

import numpy as np
from torch import Tensor

from .errors import IncompatibleError, OptionError

NUMBERS: dict[type, type] = {int: numbers.Integral, float: numbers.Real}  # numpy's too
UNIONS = (typing.Union, UnionType)
PLAIN = (bool, int, float, str)
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "nothing"}


def check_types(what: str, owner: type, given: Mapping[str, Any]) -> None:
    """Refuse numbers, texts and switches that are not of their field's type.

    Parameters
    ----------
    what
        How the message begins.
    owner
        The dataclass. A field's own default is always right, and fields of other types are left to it.
    given
        Name -> value.

    Raises
    ------
    OptionError
        Naming the option, what was given and what was expected.
    """
    if not dataclasses.is_dataclass(owner):
        return
    try:
        hints = typing.get_type_hints(owner)
    except Exception:  # a stranger's annotations, perhaps of types that only type checkers import
        return
    defaults = {field.name: field.default for field in dataclasses.fields(owner)}
    for name, value in given.items():
        hint = hints.get(name, Any)
        allowed = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,)
        if value is defaults.get(name) or not all(one in WORDS for one in allowed):
            continue
        if not any(_fits(value, one) for one in allowed):
            expected = " or ".join(WORDS[one] for one in allowed)
            raise OptionError(f"{what}: {name} must be {expected}, got {value!r}")


def check_parts(what: str, owner: Any) -> None:
    """The same for an instance that was made directly, and may have made objects of what it was given."""
    if dataclasses.is_dataclass(owner):
        fields = {field.name: getattr(owner, field.name) for field in dataclasses.fields(owner) if field.init}
        plain = {name: value for name, value in fields.items() if isinstance(value, PLAIN)}
        check_types(what, type(owner), plain)


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return kind is bool
    if kind in NUMBERS and isinstance(value, Tensor):
        return value.ndim == 0
    return isinstance(value, NUMBERS.get(kind, kind))


def check_one_of(what: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Refuse a value that is none of those there are."""
    if value not in allowed:
        raise IncompatibleError(f"{what} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
