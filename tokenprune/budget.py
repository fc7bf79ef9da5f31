# SPDX-License-Identifier: Apache-2.0
"""The number of visual tokens to keep."""

from __future__ import annotations

import numbers
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from typing import Any

from .covering import Cover
from .errors import BudgetError
from .option_types import is_integer


@dataclass(frozen=True)
class Budget:
    """Rows to keep of each image: a count (`keep`), a share (`keep_ratio`) or a `rule`; exactly one is given.

    `at_least` is a share of an image's tokens that is kept in any case, rounded up. With a rule, as that of
    `tokenprune.cover`, the number of rows depends on the picture.
    """

    keep: int | None = None
    keep_ratio: float | None = None
    at_least: float = 0.0
    rule: Cover | None = None

    def __post_init__(self) -> None:
        if self.rule is not None:
            if self.keep is not None or self.keep_ratio is not None:
                raise BudgetError(
                    f"{self.rule} says how many tokens are kept; give no keep or keep_ratio with it"
                )
            if not isinstance(self.rule, Cover):
                raise BudgetError(f"rule must be a tokenprune.Cover, got {self.rule!r}")
        elif (self.keep is None) == (self.keep_ratio is None):
            got = "neither" if self.keep is None else "both"
            raise BudgetError(
                f"give exactly one of keep (visual tokens per image) and keep_ratio (a share), got {got}"
            )
        elif self.keep is not None:
            _check_keep(self.keep)
            object.__setattr__(self, "keep", int(self.keep))  # may be a numpy integer
        else:
            _check_ratio(self.keep_ratio)
        _check_share(self.at_least)

    @classmethod
    def of(cls, keep: int | Cover | Budget, at_least: float = 0.0) -> Budget:
        """Return a count, rule or budget as a budget that keeps at least a share of an image, and its own."""
        if isinstance(keep, Cover):
            keep = cls(rule=keep)
        budget = keep if isinstance(keep, Budget) else cls(keep)
        return replace(budget, at_least=max(at_least, budget.at_least))

    def rows(self, n: int) -> int:
        """Return the number of rows kept of an image of `n` tokens, 1 to n; with a rule, the most.

        A share is rounded half up, ``max(1, floor(r * n + 1/2))``, in decimal arithmetic: 0.145 of 100 is 15,
        although the binary fraction nearest to 0.145 would give 14.
        """
        if self.rule is not None:
            return max(self.rule.most(n), self._share_kept(n))
        if self.keep is not None:
            return min(max(self.keep, self._share_kept(n)), n)
        exact = Decimal(repr(float(self.keep_ratio or 0))) * n
        return max(1, self._share_kept(n), min(n, int(exact.to_integral_value(ROUND_HALF_UP))))

    def least(self, n: int) -> int:
        """Return the fewest rows kept of an image of `n` tokens, 1 to n; those of `rows` without a rule."""
        if self.rule is None:
            return self.rows(n)
        return max(min(self.rule.at_least, n), self._share_kept(n))

    def _share_kept(self, n: int) -> int:
        """Number of rows that `at_least` asks for."""
        if not self.at_least:
            return 0
        return int((Decimal(repr(float(self.at_least))) * n).to_integral_value(ROUND_CEILING))

    def of_share(self, share: float) -> Budget:
        """Return the budget of a share of an image, such as its tiles: of counts, the share, at least 1."""
        if self.rule is not None:
            return replace(self, rule=self.rule.of_share(share))
        if self.keep is None:
            return self
        return replace(self, keep=max(1, int(self.keep * share + 0.5)))

    def __str__(self) -> str:
        keep = self.keep if self.rule is None else self.rule
        amount = f"keep={keep}" if keep is not None else f"keep_ratio={self.keep_ratio}"
        return f"{amount} (at least {self.at_least:.0%})" if self.at_least else amount


def cover(radius: float, at_most: int | None = None, at_least: int = 1) -> Budget:
    """Return a budget that keeps tokens until every dropped one is within `radius` of a kept one.

    A selector picks tokens one by one, and stops at the first count at which the image is covered, so that
    few are kept of a plain wall, and many of a full page. The picks are those of a fixed budget of the same
    count. With the other arguments equal, a larger radius never keeps more. Each tile is covered on its own
    where a method divides budgets among tiles, with its share of the counts, and of a video every temporal
    slice keeps a token, as far as `at_most` allows. Newline tokens follow the method.

    Distances are 1 - cosine of the rows among which tokens are cut (`VisualTokens.features`), in float32;
    1e-6 beyond the radius still counts as within, because cosines are rounded. A zero row is at distance 1
    of every other row, also of another zero row.

    Parameters
    ----------
    radius
        Cosine distance, in [0, 2]. At 0 only tokens that equal a kept one, up to a factor, are dropped.
    at_most
        Most tokens kept of an image; None: no limit. Where it stops the selector before the image is covered,
        the report says `capped`. It also limits the time spent on choosing.
    at_least
        Fewest tokens kept of an image, as far as it has that many.

    Raises
    ------
    BudgetError
        When an argument is not a number in its range, or `at_least` is more than `at_most`.
    """
    return Budget(rule=Cover(radius, at_most, at_least))


def _check_keep(keep: Any) -> None:
    if not is_integer(keep):
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
