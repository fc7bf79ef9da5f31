# SPDX-License-Identifier: Apache-2.0
"""A test of a bounded mean by betting (Waudby-Smith and Ramdas, JRSS B 2024, arXiv 2010.09686).

A gambler bets that the next loss is below the limit m. From 1, the capital becomes

    K_t = sum_j w_j prod_{i <= t} (1 + f_j (m - X_i) / (1 - m)),

the average of gamblers who stake fixed shares f_j of what they have ("diversified Kelly betting" there). If
the mean is m or more, K is a supermartingale, so that it ever reaches 1/delta with probability delta at most
(Ville's inequality): 1 / max_t K_t is a p-value at any time, also when one stops because of it. For losses of
0 and 1 with risk p, the best share is 1 - p/m. A share of 1 stakes everything on "no loss", as the exact
binomial test of a sample without losses does.

The stakes do not depend on the losses. Betting by the variance of past losses, the paper's plug-in, gave
bounds as tight for risks of 5 and 10 % and wider ones for 1 % (samples of 500 and 2,000, losses of 0 and 1).

Each factor grows with m, so the p-value falls with the limit, and its inverse is an upper bound of the mean.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from .binomial import where_it_falls
from .checks import Array, check_share, losses_of

SHARES: Array = np.linspace(0.05, 1.0, 20)
WEIGHTS: Array = np.where(SHARES == 1.0, 0.25, 0.75 / (len(SHARES) - 1))


def p_value(values: ArrayLike, limit: float) -> float:
    """Return the p-value of "the mean is at least the limit", valid at any time; see the module.

    Parameters
    ----------
    values
        Losses (n,) in [0, 1], in the order in which they were drawn; shuffle requests ordered in time.
    limit
        The mean, in (0, 1).
    """
    highest = float(log_capital(values, limit).max())
    return math.exp(-highest) if highest > 0 else 1.0


def upper_bound(values: ArrayLike, delta: float) -> float:
    """Return the upper bound of the mean with confidence 1 - delta: the limit with the p-value delta."""
    losses = losses_of(values)
    check_share("delta", delta)
    return where_it_falls(lambda limit: p_value(losses, limit), delta)


def fewest_samples(limit: float, delta: float) -> int:
    """Return the smallest sample that certifies a limit if all losses are 0."""
    check_share("delta", delta)
    needed, gains = -math.log(delta), _log_gains(limit)
    low, high = 0, 1
    while _log_average(high * gains) < needed:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _log_average(middle * gains) >= needed else (middle, high)
    return high


def can_still_pass(values: ArrayLike, limit: float, delta: float, n_left: int) -> bool:
    """Return whether the p-value is delta or less after `n_left` further losses, if all of them are 0."""
    check_share("delta", delta)
    shares = _log_shares(values, limit)
    later = shares[-1] + n_left * _log_gains(limit)
    return bool(_log_average(np.vstack([shares, later])).max() >= -math.log(delta))


def log_capital(values: ArrayLike, limit: float) -> Array:
    """Return the logarithm of the capital K_t after each loss, (n,)."""
    return _log_average(_log_shares(values, limit))


def _log_shares(values: ArrayLike, limit: float) -> Array:
    """Return the logarithm of each gambler's capital after each loss, (n, gamblers)."""
    check_share("the limit", limit)
    losses = losses_of(values)
    odds = (limit - losses) / (1 - limit)
    with np.errstate(divide="ignore"):  # who stakes everything loses it to a loss of 1
        growth: Array = np.log(np.maximum(0.0, 1 + np.outer(odds, SHARES)))
    return growth.cumsum(0)


def _log_gains(limit: float) -> Array:
    """Return by how much the logarithm of each gambler's capital grows with a loss of 0."""
    check_share("the limit", limit)
    gains: Array = np.log1p(SHARES * limit / (1 - limit))
    return gains


def _log_average(logs: Array) -> Array:
    """Return the logarithm of the gamblers' average capital, (..., gamblers) -> (...)."""
    average: Array = np.logaddexp.reduce(logs + np.log(WEIGHTS), axis=-1)
    return average
