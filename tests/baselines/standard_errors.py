# SPDX-License-Identifier: Apache-2.0
"""Differences in accuracy with their standard error, as the baselines are pinned with.

Questions about one scene stand or fall together, so scenes are what is drawn at random: standard errors
are those of a mean over clusters, one cluster a scene.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from scene_batches import SceneAnswer

CLEAR = 2.0  # standard errors from which a difference counts as more than noise


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` questions and its standard error, as shares (1 = all)."""

    value: float
    standard_error: float
    n: int

    @property
    def is_clear(self) -> bool:
        """Whether it lies at least two standard errors from 0; a value without spread is clear unless 0."""
        return self.value != 0 and abs(self.value) >= CLEAR * self.standard_error


def mean_of(values: Sequence[float], clusters: Sequence[Hashable]) -> Estimate:
    """Mean of `values` with the standard error of a cluster sample, sqrt(C / (C - 1) sum_c r_c^2) / n.

    r_c is the sum of the residuals of cluster c, C the number of clusters. With a single cluster nothing
    is known about the spread: the standard error is infinite.

    Parameters
    ----------
    values, clusters
        (n,) a value and the name of its cluster.

    Raises
    ------
    ValueError
        When there are no values.
    """
    if not values:
        raise ValueError("a mean needs at least one value")
    mean = math.fsum(values) / len(values)
    residuals: dict[Hashable, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        residuals[cluster] = residuals.get(cluster, 0.0) + value - mean
    count = len(residuals)
    if count == 1:
        return Estimate(mean, math.inf, len(values))
    square = math.fsum(r * r for r in residuals.values()) * count / (count - 1)
    return Estimate(mean, math.sqrt(square) / len(values), len(values))


def paired_gap(better: Sequence[SceneAnswer], worse: Sequence[SceneAnswer]) -> Estimate:
    """How much more often one setting is right than another on the very same questions.

    Raises
    ------
    ValueError
        When the two did not answer the same questions in the same order.
    """
    if [(a.scene, a.question) for a in better] != [(b.scene, b.question) for b in worse]:
        raise ValueError("only answers to the same questions, in the same order, can be compared in pairs")
    gaps = [float(a.is_right) - float(b.is_right) for a, b in zip(better, worse, strict=True)]
    return mean_of(gaps, [a.scene for a in better])
