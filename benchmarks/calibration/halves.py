# SPDX-License-Identifier: Apache-2.0
"""Certify on random halves of answered questions, and judge by the risk over all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenprune_calibrate.statistics import binomial

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Halves:
    """How often the certified setting's risk over all questions is above the limit.

    `expected` is the exact probability that the first setting above the limit passes its own test on a half,
    which the rate of violations cannot exceed on average; 0 if no setting is above. `kept` is the mean number
    of settings certified; `below` are the settings before the first above the limit.
    """

    method: str
    limit: float
    violations: float
    expected: float
    kept: float
    below: int


def judge(
    method: str, losses: Sequence[Array], limit: float, delta: float, n_halves: int, seed: int
) -> Halves:
    """Certify on `n_halves` random halves.

    Parameters
    ----------
    losses
        0 or 1 of each question (n,), by setting from careful to cheap.
    """
    rng = np.random.default_rng(seed)
    table = np.array(losses)
    n, half = table.shape[1], table.shape[1] // 2
    most = most_losses(half, limit, delta)
    above = [number for number, values in enumerate(table) if values.mean() > limit]
    first = above[0] if above else len(table)
    certified = np.zeros(n_halves, dtype=int)
    for number in range(n_halves):
        passed = table[:, rng.permutation(n)[:half]].sum(1) <= most
        certified[number] = len(table) if passed.all() else int(np.argmin(passed))
    expected = passing_probability(n, int(table[first].sum()), half, most) if above else 0.0
    wrong = float(np.mean([number > first for number in certified]))
    return Halves(method, limit, wrong, expected, float(certified.mean()), first)


def most_losses(n: int, limit: float, delta: float) -> int:
    """Return the most losses of n with which the exact test certifies the limit; -1 if none does."""
    most = -1
    while most + 1 < n and binomial.tail(most + 1, n, limit) <= delta:
        most += 1
    return most


def passing_probability(n: int, n_losses: int, half: int, most: int) -> float:
    """Return the probability that a random half has at most `most` of all losses (hypergeometric)."""
    total = math.comb(n, half)
    ways = sum(
        math.comb(n_losses, k) * math.comb(n - n_losses, half - k)
        for k in range(max(0, half - (n - n_losses)), min(most, n_losses) + 1)
    )
    return ways / total
