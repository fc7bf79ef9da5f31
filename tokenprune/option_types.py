# SPDX-License-Identifier: Apache-2.0
"""Validate the types of dataclass options when they are set, not in a forward pass."""

from __future__ import annotations

import dataclasses
import numbers
import typing
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, TypeGuard

import numpy as np
from torch import Tensor

from .errors import IncompatibleError, OptionError

NUMBERS: dict[type, type] = {int: numbers.Integral, float: numbers.Real}  # including numpy's
UNIONS = (typing.Union, UnionType)
PLAIN = (bool, int, float, str)
WORDS = {int: "an integer", float: "a number", bool: "True or False", str: "a string", NoneType: "None"}


def is_integer(value: Any) -> TypeGuard[int]:
    """Return whether a value is an integer, Python's or NumPy's, and not a boolean."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def as_python(value: Any) -> Any:
    """Convert a number of NumPy to Python's, which generators of torch and JSON require."""
    return value.item() if isinstance(value, (np.number, np.bool_)) else value


def check_types(what: str, owner: type, values: Mapping[str, Any]) -> None:
    """Raise for numbers, strings and booleans that do not have the type of their field.

    Parameters
    ----------
    what
        The beginning of the message.
    owner
        The dataclass. A field's default is always accepted; fields of other types are not checked.
    values
        Name -> value.

    Raises
    ------
    OptionError
        Naming the option, its value and the expected type.
    """
    if not dataclasses.is_dataclass(owner):
        return
    try:
        hints = typing.get_type_hints(owner)
    except Exception:  # annotations may name types that are imported for type checkers only
        return
    defaults = {field.name: field.default for field in dataclasses.fields(owner)}
    for name, value in values.items():
        hint = hints.get(name, Any)
        allowed = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,)
        if value is defaults.get(name) or not all(kind in WORDS for kind in allowed):
            continue
        if not any(_is_a(value, kind) for kind in allowed):
            expected = " or ".join(WORDS[kind] for kind in allowed)
            raise OptionError(f"{what}: {name} must be {expected}, got {value!r}")


def check_parts(what: str, owner: Any) -> None:
    """Check the types of an instance's fields, skipping those that the instance converted to objects."""
    if dataclasses.is_dataclass(owner):
        fields = {field.name: getattr(owner, field.name) for field in dataclasses.fields(owner) if field.init}
        plain = {name: value for name, value in fields.items() if isinstance(value, PLAIN)}
        check_types(what, type(owner), plain)


def _is_a(value: Any, kind: Any) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return kind is bool
    if kind in NUMBERS and isinstance(value, Tensor):
        return value.ndim == 0
    return isinstance(value, NUMBERS.get(kind, kind))


def check_one_of(what: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raise for a value that is not among `allowed`."""
    if value not in allowed:
        raise IncompatibleError(f"{what} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
