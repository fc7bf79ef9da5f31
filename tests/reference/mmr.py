# SPDX-License-Identifier: Apache-2.0
"""Maximal marginal relevance in loops, float64. Carbonell and Goldstein, SIGIR 1998."""

import numpy as np


def mmr(features, scores, keep, weight):
    """Picks, the highest score first, and their margins."""
    features, scores = np.asarray(features, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    n, spread = len(scores), scores.max() - scores.min()
    r = (scores - scores.min()) / spread if spread > 0 else np.ones(n)
    unit = [row / np.linalg.norm(row) for row in features]
    chosen, margins = [], []
    for _ in range(keep):
        value = {
            j: weight * r[j] - (1 - weight) * max(unit[j] @ unit[i] for i in chosen) if chosen else r[j]
            for j in range(n)
            if j not in chosen
        }
        ranked = sorted(value, key=lambda j: (-value[j], j))
        chosen.append(ranked[0])
        margins.append(value[ranked[0]] - value[ranked[1]] if len(ranked) > 1 else np.inf)
    return chosen, margins
