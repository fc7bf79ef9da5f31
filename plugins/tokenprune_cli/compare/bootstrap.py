# SPDX-License-Identifier: Apache-2.0
"""Intervals that tell noise from a difference: the paired percentile bootstrap over pictures.

Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 16. Pictures are drawn with
replacement, all questions of a picture together, since they stand or fall together; both sides of a
difference see the same draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from tokenprune_cli.compare.scoring import Array, ratio

N_DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95 % interval; where there is one picture only, the ends are unknown."""

    value: float
    low: float | None
    high: float | None

    @property
    def is_clear(self) -> bool:
        """Whether 0 lies outside."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def rounded(self) -> dict[str, float | None]:
        """Return the value and the ends with five digits, as records hold them."""
        ends = {"value": self.value, "low": self.low, "high": self.high}
        return {name: None if end is None else round(end, 5) for name, end in ends.items()}


@cache
def draws(n_pictures: int, n: int = N_DRAWS, seed: int = 0) -> Array:
    """How often each picture is drawn in each of `n` samples of as many pictures, (n, n_pictures)."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n_pictures, np.full(n_pictures, 1 / n_pictures), size=n).astype(np.float64)
    counts.setflags(write=False)  # whoever asks again gets the same array
    return counts


def interval(sums: Array, counts: Array) -> Interval:
    """Interval of a metric.

    Parameters
    ----------
    sums
        (pictures, 2), of `scoring.cluster_sums`.
    counts
        (n, pictures), of `draws`.
    """
    return _between(float(ratio(sums.sum(0))), ratio(counts @ sums), len(sums))


def difference(ours: Array, theirs: Array, counts: Array) -> Interval:
    """Interval of how much higher a metric is on one side than on the other, on the same questions."""
    value = float(ratio(ours.sum(0)) - ratio(theirs.sum(0)))
    return _between(value, ratio(counts @ ours) - ratio(counts @ theirs), len(ours))


def _between(value: float, samples: Array, n_pictures: int) -> Interval:
    if n_pictures < 2:
        return Interval(value, None, None)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(samples, [tail, 100 - tail])
    return Interval(value, float(low), float(high))
