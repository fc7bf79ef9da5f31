# SPDX-License-Identifier: Apache-2.0
"""Strategy lookup by name, for methods that hold names.

The registry holds methods, so `methods` cannot import it. It implements the interface defined here, and sets
itself as the default when the package is imported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any


class StrategyLookup(ABC):
    """Returns strategies by name, and their names."""

    @abstractmethod
    def strategy(self, kind: str, source: Any) -> Any:
        """Return a strategy (``scorer``, ``selector`` or ``reducer``) from a name, class or instance."""

    @abstractmethod
    def names(self, kind: str) -> list[str]:
        """Return the names of all strategies of a kind."""


_DEFAULT: list[Callable[[], StrategyLookup]] = []


def set_default_lookup(default: Callable[[], StrategyLookup]) -> None:
    """Set the function that `default_lookup` calls."""
    _DEFAULT[:] = [default]


def default_lookup() -> StrategyLookup:
    """Return the registry of the installed plugins."""
    return _DEFAULT[0]()
