# SPDX-License-Identifier: Apache-2.0
"""Wrap a method of a single object."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tokenprune.not_copied import NotCopied


class Interposed(NotCopied):
    """Replaces a method of one object by a function."""

    def __init__(self, original: Callable[..., Any], function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, original)
        self._original, self._function = original, function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._function(*args, **kwargs)

    def end(self) -> None:
        """Call the original from now on, for code that holds on to this object."""
        self._function = self._original


def interpose(owner: Any, name: str, function: Callable[..., Any]) -> Callable[[], None]:
    """Replace a method of `owner` by `function`; return a function that restores the method.

    Sets an instance attribute, which shadows the method of the class, or another function that stood there,
    until it is removed. Then it calls the original, if something else still refers to it.
    """
    absent = object()
    before = vars(owner).get(name, absent)
    interposed = Interposed(getattr(owner, name), function)
    object.__setattr__(owner, name, interposed)

    def undo() -> None:
        interposed.end()
        if vars(owner).get(name) is not interposed:
            return
        if before is absent:
            object.__delattr__(owner, name)
        else:
            object.__setattr__(owner, name, before)

    return undo
