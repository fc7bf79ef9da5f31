# SPDX-License-Identifier: Apache-2.0
"""SCOPE's coverage in loops, float64. METHODS: arXiv 2510.24214."""

import numpy as np


def cosine(a, b):
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / lengths) if lengths > 0 else 0.0


def scope(rows, keep, scores=None, alpha=1.0, combine="multiply"):
    """Picks, each of which has the largest weighted gain in coverage, and their margins."""
    rows = np.asarray(rows, dtype=np.float64)
    n = len(rows)
    weight = np.ones(n) if scores is None else np.maximum(np.asarray(scores, dtype=np.float64), 0) ** alpha
    close = [[cosine(rows[i], rows[j]) for j in range(n)] for i in range(n)]
    covered, chosen, margins = [0.0] * n, [], []
    for _ in range(keep):
        value = {}
        for j in range(n):
            if j not in chosen:
                gain = sum(max(0.0, close[j][i] - covered[i]) for i in range(n))
                value[j] = gain * weight[j] if combine == "multiply" else gain + weight[j]
        ranked = sorted(value, key=lambda j: (-value[j], j))
        chosen.append(ranked[0])
        margins.append(value[ranked[0]] - value[ranked[1]] if len(ranked) > 1 else np.inf)
        covered = [max(covered[i], close[ranked[0]][i]) for i in range(n)]
    return chosen, margins
