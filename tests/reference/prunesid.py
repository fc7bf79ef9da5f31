# SPDX-License-Identifier: Apache-2.0
"""PruneSID in loops, float64, from given loadings or NumPy's SVD. METHODS: arXiv 2603.09480."""

import math

import numpy as np


def loadings(rows, q):
    """|V| (N, C) of the centred sigmoid, by SVD; 0 for components without variance."""
    rows = np.asarray(rows, dtype=np.float64)
    columns = (1 / (1 + np.exp(-rows))).T
    columns = columns - columns.mean(0)
    _, strength, right = np.linalg.svd(columns, full_matrices=False)
    right[strength**2 <= 1e-12 * strength[0] ** 2] = 0
    return np.abs(right[:q].T)


def cosines(rows):
    rows = np.asarray(rows, dtype=np.float64)
    unit = [row / max(np.linalg.norm(row), 1e-12) for row in rows]
    return np.array([[float(a @ b) for b in unit] for a in unit])


def tower_threshold(rows, total):
    n, cosine = len(rows), cosines(rows)
    pairs = [cosine[i, j] for i in range(n) for j in range(i + 1, n)]
    return total / 32 * (sum(pairs) / len(pairs) if pairs else 0)


def merged_threshold(rows, total):
    n, cosine = len(rows), cosines(rows)
    upper = sum(cosine[i, j] for i in range(n) for j in range(i, n))
    return max(18 * total / n, 1) * upper / n**2


def survivors(members, scores, cosine, limit):
    """Members left, best first: take the best, remove what is similar to it, and so on."""
    left, kept = sorted(members, key=lambda j: (-scores[j], j)), []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [j for j in left if not cosine[best, j] > limit]
    return kept


def quotas(kept, sizes, keep, reserved):
    """Tokens of each group, in loops; cumulative shares in float32 of sums in float64."""
    total, groups = keep + reserved, range(len(sizes))
    least = [min(1, size) for size in sizes]
    most = [min(5 * math.ceil(total / 64), k, size) for k, size in zip(kept, sizes, strict=True)]
    while sum(most) < min(total, sum(sizes)):
        most = [min(m + 1, size) for m, size in zip(most, sizes, strict=True)]
    rest, before, sum_of_shares, shares = max(0, keep - sum(least)), 0, 0.0, []
    for g in groups:
        sum_of_shares += float(np.float32(kept[g]) / np.float32(sum(kept)))
        bound = int(np.round(np.float32(sum_of_shares) * np.float32(rest)))  # half to even
        shares.append(min(bound - before + least[g], most[g]))
        before = bound
    for g in sorted(groups, key=lambda g: (-kept[g], g)):
        while shares[g] < most[g] and sum(shares) < rest + sum(least):
            shares[g] += 1
    for g in reversed(groups):  # more groups than tokens
        while shares[g] and sum(shares) > keep:
            shares[g] -= 1
    return shares


def prunesid(rows, scores, keep, reserved, merged=False, loads=None):
    """Slots kept, group by group. Without scores the loadings rank."""
    total = keep + reserved
    if loads is None:
        loads = loadings(rows, max(total // 4, 4 if merged else 1))
    loads, cosine = np.asarray(loads, dtype=np.float64), cosines(rows)
    limit = (merged_threshold if merged else tower_threshold)(rows, total)
    group = [max(range(loads.shape[1]), key=lambda c: (loads[j, c], -c)) for j in range(len(rows))]
    if scores is None:
        scores = [loads[j, group[j]] for j in range(len(rows))]
    lists, kept = [], []
    for g in range(loads.shape[1]):
        members = [j for j in range(len(rows)) if group[j] == g]
        left = survivors(members, scores, cosine, limit)
        others = sorted((j for j in members if j not in left), key=lambda j: (-scores[j], j))
        lists.append(left + others)
        kept.append(len(left))
    shares = quotas(kept, [len(members) for members in lists], keep, reserved)
    return [j for members, share in zip(lists, shares, strict=True) for j in members[:share]]
