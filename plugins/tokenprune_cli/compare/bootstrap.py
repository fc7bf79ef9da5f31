# SPDX-License-Identifier: Apache-2.0
"""The paired percentile bootstrap over pictures, which distinguishes a difference from noise.

Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 16. Pictures are drawn with
replacement. All questions of a picture are drawn together because their answers depend on each other, and
both sides of a difference use the same draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
N_DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95 % interval; with a single picture the ends are unknown (None)."""

    value: float
    low: float | None
    high: float | None

    @property
    def is_clear(self) -> bool:
        """Whether 0 lies outside of the interval."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def rounded(self) -> dict[str, float | None]:
        """Return the value and the ends for a record, with five digits."""
        ends = {"value": self.value, "low": self.low, "high": self.high}
        return {name: None if end is None else round(end, 5) for name, end in ends.items()}


@cache
def draws(n_pictures: int, n: int = N_DRAWS, seed: int = 0) -> Array:
    """Return how often each picture is drawn in each of `n` samples, (n, n_pictures)."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n_pictures, np.full(n_pictures, 1 / n_pictures), size=n).astype(np.float64)
    counts.setflags(write=False)  # the cache returns the same array to every caller
    return counts


def interval(sums: Array, baseline: Array | None = None, counts: Array | None = None) -> Interval:
    """Return the interval of a metric, or of its difference to a baseline.

    Parameters
    ----------
    sums
        Numerators and denominators of the metric by picture, (pictures, 2); see `scoring.picture_sums`.
    baseline
        The same sums for other answers to the same questions.
    counts
        How often each picture is drawn in each sample, (samples, pictures); None: `draws(pictures)`.
    """
    counts = draws(len(sums)) if counts is None else counts
    value, samples = ratio(sums.sum(0)), ratio(counts @ sums)
    if baseline is not None:
        value, samples = value - ratio(baseline.sum(0)), samples - ratio(counts @ baseline)
    if len(sums) < 2:
        return Interval(float(value), None, None)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(samples, [tail, 100 - tail])
    return Interval(float(value), float(low), float(high))


def ratio(sums: Array) -> Array:
    """Divide the numerators in the last axis (..., 2) by the denominators; 0 where a denominator is 0."""
    numerator, denominator = sums[..., 0], sums[..., 1]
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)
