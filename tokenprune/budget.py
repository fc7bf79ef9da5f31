# SPDX-License-Identifier: Apache-2.0
"""The number of visual tokens to keep."""

from __future__ import annotations

import numbers
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from typing import Any

from .errors import BudgetError


@dataclass(frozen=True)
class Budget:
    """Rows to keep of each image, as a count (`keep`) or a share (`keep_ratio`); exactly one is given.

    `at_least` is a share of an image's tokens that is kept in any case, rounded up.
    """

    keep: int | None = None
    keep_ratio: float | None = None
    at_least: float = 0.0

    def __post_init__(self) -> None:
        if (self.keep is None) == (self.keep_ratio is None):
            got = "neither" if self.keep is None else "both"
            raise BudgetError(
                f"give exactly one of keep (visual tokens per image) and keep_ratio (a share), got {got}"
            )
        if self.keep is not None:
            _check_keep(self.keep)
            object.__setattr__(self, "keep", int(self.keep))  # may be a numpy integer
        else:
            _check_ratio(self.keep_ratio)
        _check_share(self.at_least)

    @classmethod
    def of(cls, keep: int | Budget, at_least: float = 0.0) -> Budget:
        """Return a count or a budget as one that keeps at least a share of an image, and its own."""
        budget = keep if isinstance(keep, Budget) else cls(keep)
        return replace(budget, at_least=max(at_least, budget.at_least))

    def rows(self, n: int) -> int:
        """Return the number of rows kept of an image of `n` tokens, 1 to n.

        A share is rounded half up, ``max(1, floor(r * n + 1/2))``, in decimal arithmetic: 0.145 of 100 is 15,
        although the binary fraction nearest to 0.145 would give 14.
        """
        least = 0
        if self.at_least:
            least = int((Decimal(repr(float(self.at_least))) * n).to_integral_value(ROUND_CEILING))
        if self.keep is not None:
            return min(max(self.keep, least), n)
        exact = Decimal(repr(float(self.keep_ratio or 0))) * n
        return max(1, least, min(n, int(exact.to_integral_value(ROUND_HALF_UP))))

    def of_share(self, share: float) -> Budget:
        """Return the budget of a share of an image, such as its tiles: of a count, the share, at least 1."""
        if self.keep is None:
            return self
        return replace(self, keep=max(1, int(self.keep * share + 0.5)))

    def __str__(self) -> str:
        amount = f"keep={self.keep}" if self.keep is not None else f"keep_ratio={self.keep_ratio}"
        return f"{amount} (at least {self.at_least:.0%})" if self.at_least else amount


def _check_keep(keep: Any) -> None:
    if isinstance(keep, bool) or not isinstance(keep, numbers.Integral):
        raise BudgetError(f"keep must be an integer, the visual tokens kept per image, got {keep!r}")
    if keep < 1:
        raise BudgetError(f"keep must be at least 1 (every image keeps a token), got {keep}")


def _check_ratio(ratio: Any) -> None:
    if isinstance(ratio, bool) or not isinstance(ratio, numbers.Real):
        raise BudgetError(f"keep_ratio must be a number in (0, 1], got {ratio!r}")
    if not 0 < float(ratio) <= 1:
        raise BudgetError(f"keep_ratio must lie in (0, 1], got {ratio}")


def _check_share(share: Any) -> None:
    if isinstance(share, bool) or not isinstance(share, numbers.Real) or not 0 <= float(share) <= 1:
        raise BudgetError(f"at_least must be a number in [0, 1], got {share!r}")
