# SPDX-License-Identifier: Apache-2.0
"""Looking strategies up by name, for methods that were made of names.

The registry holds methods, so that a method cannot import the registry. It knows this interface instead, and
the registry, which implements it, is entered here when the package is imported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from .strategy import Reducer, Scorer, Selector


class StrategyLookup(ABC):
    """Returns strategies for names."""

    @abstractmethod
    def scorer(self, given: str | Scorer | type[Scorer]) -> Scorer:
        """Return a scorer for a name, a class or an instance."""

    @abstractmethod
    def selector(self, given: str | Selector | type[Selector]) -> Selector:
        """Return a selector for a name, a class or an instance."""

    @abstractmethod
    def reducer(self, given: str | Reducer | type[Reducer]) -> Reducer:
        """Return a reducer for a name, a class or an instance."""


_DEFAULT: list[Callable[[], StrategyLookup]] = []


def set_default_lookup(default: Callable[[], StrategyLookup]) -> None:
    """Say what `default_lookup` returns: the result of calling `default`, then and not before."""
    _DEFAULT[:] = [default]


def default_lookup() -> StrategyLookup:
    """Return the registry of the installed plugins."""
    return _DEFAULT[0]()
