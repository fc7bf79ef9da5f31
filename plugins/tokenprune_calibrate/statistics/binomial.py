# SPDX-License-Identifier: Apache-2.0
"""The exact binomial test of a risk, for losses of 0 and 1 (Clopper and Pearson, Biometrika 1934)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from .checks import check_share, check_size, losses_of

STEPS = 60  # of a bisection: to the last bit


def p_value(values: ArrayLike, limit: float) -> float:
    """Return P(Bin(n, limit) <= number of losses), the p-value of "the risk is above the limit".

    Parameters
    ----------
    values
        Losses (n,), each 0 or 1.
    limit
        The risk, in (0, 1).

    Raises
    ------
    ValueError
        If a loss is neither 0 nor 1, or the limit is not in (0, 1).
    """
    losses = losses_of(values)
    if not np.isin(losses, (0.0, 1.0)).all():
        raise ValueError("the exact binomial test takes losses of 0 and 1")
    return tail(int(losses.sum()), len(losses), limit)


def upper_bound(values: ArrayLike, delta: float) -> float:
    """Return the upper bound of the risk with confidence 1 - delta: the limit with the p-value delta."""
    losses = losses_of(values)
    check_share("delta", delta)
    if losses.all():
        return 1.0
    return where_it_falls(lambda limit: p_value(losses, limit), delta)


def fewest_samples(limit: float, delta: float) -> int:
    """Return the smallest sample that certifies a limit without a single loss: (1 - limit)^n <= delta."""
    check_share("the limit", limit)
    check_share("delta", delta)
    n = math.ceil(math.log(delta) / math.log1p(-limit) - 1e-9)
    return max(1, n)


def tail(n_losses: int, n: int, limit: float) -> float:
    """Return P(Bin(n, limit) <= n_losses), summed in logarithms."""
    check_size(n)
    check_share("the limit", limit)
    if n_losses >= n:
        return 1.0
    odds, log_none = math.log(limit) - math.log1p(-limit), n * math.log1p(-limit)
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * odds + log_none
        for k in range(n_losses + 1)
    ]
    highest = max(logs)
    return min(1.0, math.exp(highest) * math.fsum(math.exp(value - highest) for value in logs))


def where_it_falls(of_limit: Callable[[float], float], level: float) -> float:
    """Return the smallest limit in (0, 1), from above, at which a p-value that falls with it is <= level."""
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if of_limit(middle) <= level:
            high = middle
        else:
            low = middle
    return high
