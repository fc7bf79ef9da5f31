# SPDX-License-Identifier: Apache-2.0
"""A function of ours in front of a method of one object."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn

from tokenprune import UnsupportedCallError


class NotCopied:
    """Belongs to one model: a copy of that would share it, so making one is refused."""

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Neither copied nor pickled."""
        raise UnsupportedCallError(
            "a pruned model cannot be copied or pickled; call remove() on its handle first, and prune the "
            "copy by a call of its own (save_pretrained works on a pruned model)"
        )


class Interposed(NotCopied):
    """Stands for a method of one object, and calls `function`."""

    def __init__(self, original: Callable[..., Any], function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, original)
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._function(*args, **kwargs)


def interpose(owner: Any, name: str, function: Callable[..., Any]) -> Callable[[], None]:
    """Put `function` in front of a method of `owner`; return a function that takes it away again.

    It is an attribute of this one object, through which its class's method shows again once it is deleted.
    """
    interposed = Interposed(getattr(owner, name), function)
    object.__setattr__(owner, name, interposed)

    def undo() -> None:
        if vars(owner).get(name) is interposed:
            object.__delattr__(owner, name)

    return undo
