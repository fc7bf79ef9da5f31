# SPDX-License-Identifier: Apache-2.0
"""How a function of transformers calls its arguments, and calls of it by our words."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from torch import nn

from tokenprune import UnsupportedCallError

from .stock import ARGUMENTS, missing


@dataclass
class View:
    """Arguments of one call by our words; `rest` has those the engine has no word for, under their names."""

    rest: dict[str, Any]
    words: ClassVar[tuple[str, ...]] = ()


V = TypeVar("V", bound=View)


@dataclass(frozen=True)
class Signature:
    """The arguments of one function: parameters in order, its names for our words, words by position."""

    where: str
    order: tuple[str, ...]
    names: Mapping[str, str]
    first: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        where: str,
        words: Sequence[str],
        optional: Sequence[str] = (),
        first: Sequence[str] = (),
    ) -> Signature:
        """Read a function's signature.

        Parameters
        ----------
        where
            What to call the function in messages.
        words
            Arguments it must take, by name.
        optional
            Arguments that it may lack.
        first
            Words of the leading parameters, which are passed by position.

        Raises
        ------
        UnsupportedModelError
            When an argument is missing, or the leading ones are not where they should be.
        """
        parameters = inspect.signature(function).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        order = tuple(name for name in parameters if name != "self")
        names = {}
        for word in (*words, *optional):
            spelled = [name for name in ARGUMENTS[word] if name in order]
            if spelled:
                names[word] = spelled[0]
            elif word in words:
                raise missing(f"argument {' or '.join(ARGUMENTS[word])}", where)
            elif takes_any:
                names[word] = ARGUMENTS[word][0]
        for place, word in enumerate(first):
            if order[place] != names[word]:
                raise missing(f"argument {names[word]} at place {place} (it is {order[place]})", where)
        return cls(where, order, names, tuple(first))

    @classmethod
    def of_forward(
        cls, module: nn.Module, words: Sequence[str], optional: Sequence[str] = (), first: Sequence[str] = ()
    ) -> Signature:
        """The signature of a module's forward, whatever was put in front of the instance's."""
        forward = type(module).forward
        return cls.of(forward, f"{type(module).__name__}.forward", words, optional, first)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """All arguments of a call by the function's own names; older spellings are renamed.

        Raises
        ------
        UnsupportedCallError
            When one argument is passed by two of its spellings.
        """
        bound = {**dict(zip(self.order, args, strict=False)), **kwargs}
        for word, name in self.names.items():
            for spelling in ARGUMENTS[word]:
                if spelling != name and spelling in bound:
                    if bound.get(name) is not None:
                        raise UnsupportedCallError(f"{self.where} got both {name} and {spelling}; pass one")
                    bound[name] = bound.pop(spelling)
        return bound

    def read(self, view: type[V], args: Sequence[Any], kwargs: Mapping[str, Any]) -> V:
        """A call's arguments as a view; what was not passed is None, the default of each."""
        bound = self.bind(args, kwargs)
        words = {word: bound.pop(name, None) for word, name in self.names.items() if word in view.words}
        return view(rest=bound, **words)

    def write(self, view: View) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of a call from a view, by position and by name."""
        args = tuple(getattr(view, word) for word in self.first)
        words = [word for word in view.words if word in self.names and word not in self.first]
        return args, {**view.rest, **{self.names[word]: getattr(view, word) for word in words}}
