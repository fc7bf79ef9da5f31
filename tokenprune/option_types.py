# SPDX-License-Identifier: Apache-2.0
"""Values of options must be of the types their dataclass declares: told at once, not in a forward pass."""

from __future__ import annotations

import dataclasses
import numbers
import typing
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any

from .errors import OptionError

NUMBERS: dict[type, type] = {int: numbers.Integral, float: numbers.Real}  # numpy's too
UNIONS = (typing.Union, UnionType)
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "nothing"}


def check_types(what: str, owner: type, given: Mapping[str, Any]) -> None:
    """Refuse values that are not of their field's type.

    Parameters
    ----------
    what
        How the message begins.
    owner
        The dataclass; fields whose types cannot be told are left to it.
    given
        Name -> value.

    Raises
    ------
    OptionError
        Naming the option, what was given and what was expected.
    """
    try:
        hints = typing.get_type_hints(owner)
    except Exception:  # a stranger's annotations, perhaps of types that only type checkers import
        return
    for name, value in given.items():
        hint = hints.get(name, Any)
        members = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,)
        allowed = [typing.get_origin(one) or one for one in members]  # of tuple[int, ...] the tuple
        if Any in allowed or not all(isinstance(one, type) for one in allowed):
            continue
        if not any(_fits(value, one) for one in allowed):
            expected = " or ".join(WORDS.get(one, f"a {one.__name__}") for one in allowed)
            raise OptionError(f"{what}: {name} must be {expected}, got {value!r}")


def check_parts(what: str, owner: Any) -> None:
    """The same for an instance that was made directly."""
    if dataclasses.is_dataclass(owner):
        fields = {field.name: getattr(owner, field.name) for field in dataclasses.fields(owner) if field.init}
        check_types(what, type(owner), fields)


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return kind in (bool, object)
    try:
        return isinstance(value, NUMBERS.get(kind, kind))
    except TypeError:  # a protocol, of which instances cannot be told
        return True
