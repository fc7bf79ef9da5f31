# SPDX-License-Identifier: Apache-2.0
"""HoloV in loops: exact fractions, and the official score of a run in float64. METHODS: arXiv 2510.02912."""

import math
from fractions import Fraction

import numpy as np


def runs(n, groups):
    """Lists of consecutive slots, the first ones longer by one."""
    found, start = [], 0
    for number in range(min(groups, n)):
        size = n // min(groups, n) + (number < n % min(groups, n))
        found.append(list(range(start, start + size)))
        start += size
    return found


def heaviest_first(weights):
    return sorted(range(len(weights)), key=lambda p: (-weights[p], p))


def quotas(weights, sizes, keep):
    """Token by token; weights are exact."""
    weights = [max(w, 0) for w in weights]
    if sum(weights) == 0:
        weights = [Fraction(1)] * len(weights)
    shares = [math.floor(w * keep / sum(weights) + Fraction(1, 10**9)) for w in weights]
    for p in heaviest_first(weights)[: keep - sum(shares)]:
        shares[p] += 1
    shares = [min(share, size) for share, size in zip(shares, sizes, strict=True)]
    while sum(shares) < keep:
        for p in heaviest_first(weights):
            if shares[p] < sizes[p] and sum(shares) < keep:
                shares[p] += 1
    return shares


def picks(scores, parts, shares):
    """Slots kept, run by run, the highest score first."""
    chosen = []
    for part, share in zip(parts, shares, strict=True):
        chosen += sorted(part, key=lambda j: (-scores[j], j))[:share]
    return chosen


def holov(scores, groups, keep):
    """Slots kept in the order of the picks."""
    scores, parts = [Fraction(float(score)) for score in scores], runs(len(scores), groups)
    means = [sum(scores[j] for j in part) / len(part) for part in parts]
    return picks(scores, parts, quotas(means, [len(part) for part in parts], keep))


def crop_score(rows, attention):
    """The official score of one run."""
    rows, attention = np.asarray(rows, dtype=np.float64), np.asarray(attention, dtype=np.float64)
    n = len(rows)
    if n == 1:
        return attention[0]
    unit = [row / (np.linalg.norm(row) + 1e-6) for row in rows]
    total = []
    for i in range(n):
        cosines = [0.0 if i == j else float(unit[i] @ unit[j]) for j in range(n)]
        mean = sum(cosines) / (n - 1)
        total.append(sum((cosine - mean) ** 2 for cosine in cosines) / (n - 1))
    variance, scaled = np.array(total), 1000 * attention
    return float(np.mean(scaled + 0.09 * variance * (np.abs(scaled).mean() / (variance.mean() + 1e-6))))


def official(rows, attention, groups, keep):
    """Slots kept by the official code, run by run; its rows of zeros left out."""
    parts = runs(len(rows), groups)
    scores = np.array([crop_score(rows[part], attention[part]) for part in parts])
    weights = scores / (scores.sum() + 1e-6)
    shares = np.floor(weights * keep).astype(int)
    for p in heaviest_first(weights)[: keep - shares.sum()]:
        shares[p] += 1
    return picks([float(a) for a in attention], parts, shares)
