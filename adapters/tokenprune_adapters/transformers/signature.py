# SPDX-License-Identifier: Apache-2.0
"""Translate between the argument names of transformers and ours."""

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
    """Arguments of one call under our names; `rest` holds unknown arguments under their own names."""

    rest: dict[str, Any]
    words: ClassVar[tuple[str, ...]] = ()


V = TypeVar("V", bound=View)


@dataclass(frozen=True)
class Signature:
    """The arguments of one function: its parameters, their names by our words, and positional words."""

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
            Name of the function in error messages.
        words
            Required arguments, as keys of `stock.ARGUMENTS`.
        optional
            Optional arguments, as keys of `stock.ARGUMENTS`.
        first
            Words of the leading parameters, which are passed by position.

        Raises
        ------
        UnsupportedModelError
            If an argument is missing, or a leading parameter is not in its place.
        """
        parameters = inspect.signature(function).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        order = tuple(name for name in parameters if name != "self")
        names = {}
        for word in (*words, *optional):
            matches = [name for name in ARGUMENTS[word] if name in order]
            if matches:
                names[word] = matches[0]
            elif word in words:
                raise missing(f"argument {' or '.join(ARGUMENTS[word])}", where)
            elif takes_any:
                names[word] = ARGUMENTS[word][0]
        for place, word in enumerate(first):
            if order[place] != names[word]:
                raise missing(f"argument {names[word]} at position {place} (it is {order[place]})", where)
        return cls(where, order, names, tuple(first))

    @classmethod
    def of_forward(
        cls, module: nn.Module, words: Sequence[str], optional: Sequence[str] = (), first: Sequence[str] = ()
    ) -> Signature:
        """Read the signature of a module class's forward, ignoring wrappers on the instance."""
        forward = type(module).forward
        return cls.of(forward, f"{type(module).__name__}.forward", words, optional, first)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Bind a call's arguments to the function's own names; other spellings are renamed.

        Raises
        ------
        UnsupportedCallError
            If an argument is passed under two spellings.
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
        """Convert a call's arguments to a view; arguments that were not passed are None."""
        bound = self.bind(args, kwargs)
        words = {word: bound.pop(name, None) for word, name in self.names.items() if word in view.words}
        return view(rest=bound, **words)

    def write(self, view: View) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Convert a view to positional and keyword arguments."""
        args = tuple(getattr(view, word) for word in self.first)
        words = [word for word in view.words if word in self.names and word not in self.first]
        return args, {**view.rest, **{self.names[word]: getattr(view, word) for word in words}}
