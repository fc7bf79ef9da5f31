# SPDX-License-Identifier: Apache-2.0
"""OTPrune's kernel and determinants in loops, float64. METHODS: arXiv 2602.20205."""

import numpy as np


def kernel(features, gamma=0.01):
    """I + gamma S S^T, where S are the inner products of tokens after scaling each column to length 1."""
    features = np.asarray(features, dtype=np.float64)
    n, width = features.shape
    scaled = np.zeros_like(features)
    for column in range(width):
        length = np.sqrt(np.sum(features[:, column] ** 2))
        if length > 0:
            scaled[:, column] = features[:, column] / length
    s = np.array([[scaled[i] @ scaled[j] for j in range(n)] for i in range(n)])
    return np.array([[float(i == j) + gamma * (s[i] @ s[j]) for j in range(n)] for i in range(n)])


def otprune(features, keep, gamma=0.01, scores=None):
    """Picks, each of which makes the determinant largest, and margins in units of conditional variance."""
    a = kernel(features, gamma)
    r = np.ones(len(a)) if scores is None else np.maximum(np.asarray(scores, dtype=np.float64), 0)
    chosen, margins = [], []
    for _ in range(keep):
        before = np.linalg.det(a[np.ix_(chosen, chosen)]) if chosen else 1.0
        value = {
            j: r[j] ** 2 * np.linalg.det(a[np.ix_([*chosen, j], [*chosen, j])]) / before
            for j in range(len(a))
            if j not in chosen
        }
        ranked = sorted(value, key=lambda j: (-value[j], j))
        chosen.append(ranked[0])
        margins.append(value[ranked[0]] - value[ranked[1]] if len(ranked) > 1 else np.inf)
    return chosen, margins
