# SPDX-License-Identifier: Apache-2.0
"""Fixed-sequence testing: settings from careful to cheap, until one fails.

Learn then Test (Angelopoulos et al., arXiv 2110.01052). Each setting is tested at the full level of its
method, because a wrong certificate needs the first setting above the limit to pass. Methods divide the level.
Which settings are tested, and in which order, is decided before data are seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import betting
from .checks import Array, check_share, same_lengths

Test = Callable[[Array, float], float]  # (losses, limit or delta) to a p-value or a bound


@dataclass(frozen=True)
class Certified:
    """The first `n_certified` settings passed.

    `p_values` are None after the first that failed. Each of `upper_bounds` holds with probability 1 - delta,
    one at a time.
    """

    n_certified: int
    p_values: tuple[float | None, ...]
    upper_bounds: tuple[float, ...]


def share(delta: float, n_methods: int) -> float:
    """Return the level of each of several methods."""
    check_share("delta", delta)
    if n_methods < 1:
        raise ValueError(f"the level is divided among at least one method, got {n_methods}")
    return delta / n_methods


def certify(
    losses: Sequence[Array], limit: float, delta: float, p_value: Test, upper_bound: Test
) -> Certified:
    """Test settings in order until one fails.

    Parameters
    ----------
    losses
        Of each setting, from careful to cheap, on the same units (n,).
    limit, delta
        Certify that the risk is at most `limit`, wrongly with probability `delta` at most.
    p_value, upper_bound
        The test and its inverse, such as those of `binomial` and `betting`.
    """
    same_lengths(losses)
    p_values: list[float | None] = [None] * len(losses)
    n_certified = 0
    for number, values in enumerate(losses):
        p = p_values[number] = p_value(values, limit)
        if p > delta:
            break
        n_certified += 1
    return Certified(n_certified, tuple(p_values), tuple(upper_bound(values, delta) for values in losses))


def is_decided(losses: Sequence[Array], limit: float, delta: float, n_left: int) -> bool:
    """Return whether the settings that pass by betting are the same however the other units turn out.

    Parameters
    ----------
    losses
        Of each setting, on the units so far.
    n_left
        Number of units to come.
    """
    same_lengths(losses)
    for values in losses:
        if betting.p_value(values, limit) > delta:
            return not betting.can_still_pass(values, limit, delta, n_left)
    return True
