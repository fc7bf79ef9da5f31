# SPDX-License-Identifier: Apache-2.0
"""The budget that covers an image: as many tokens as it takes until each one dropped is close to one kept."""

from __future__ import annotations

import numbers
from dataclasses import dataclass, replace
from typing import Any

from .errors import BudgetError
from .option_types import is_integer


@dataclass(frozen=True)
class Cover:
    """A rule for the number of tokens kept of an image; see `cover`.

    `radius` is a cosine distance, `at_most` and `at_least` are counts of tokens; at_most=None: no limit.
    """

    radius: float
    at_most: int | None = None
    at_least: int = 1

    def __post_init__(self) -> None:
        _check_radius(self.radius)
        _check_count("at_least", self.at_least)
        if self.at_most is not None:
            _check_count("at_most", self.at_most)
            if self.at_least > self.at_most:
                raise BudgetError(
                    f"cover: at_least={self.at_least} is more than at_most={self.at_most}; give at_least of "
                    "at most at_most"
                )
            object.__setattr__(self, "at_most", int(self.at_most))
        object.__setattr__(self, "radius", float(self.radius))  # all may be numbers of numpy
        object.__setattr__(self, "at_least", int(self.at_least))

    def most(self, n: int) -> int:
        """Return the most rows kept of an image of `n` tokens."""
        return n if self.at_most is None else min(self.at_most, n)

    def of_share(self, share: float) -> Cover:
        """Return the rule for a share of an image, such as its tiles: the share of its counts, at least 1."""
        at_most = None if self.at_most is None else _part(self.at_most, share)
        return replace(self, at_most=at_most, at_least=_part(self.at_least, share))

    def __str__(self) -> str:
        at_most = "" if self.at_most is None else f", at_most={self.at_most}"
        at_least = "" if self.at_least == 1 else f", at_least={self.at_least}"
        return f"cover({self.radius:g}{at_most}{at_least})"


def _part(count: int, share: float) -> int:
    return max(1, int(count * share + 0.5))


def _check_radius(radius: Any) -> None:
    if isinstance(radius, bool) or not isinstance(radius, numbers.Real):
        raise BudgetError(f"cover: radius must be a number, a cosine distance in [0, 2], got {radius!r}")
    if not 0 <= float(radius) <= 2:
        raise BudgetError(f"cover: radius must lie in [0, 2], the range of cosine distances, got {radius}")


def _check_count(name: str, count: Any) -> None:
    if not is_integer(count):
        raise BudgetError(f"cover: {name} must be an integer, a number of tokens, got {count!r}")
    if count < 1:
        raise BudgetError(f"cover: {name} must be at least 1 (every image keeps a token), got {count}")
