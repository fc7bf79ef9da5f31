# SPDX-License-Identifier: Apache-2.0
"""Greedy max-min selection in O(K^2 N) numpy loops, float64. METHODS: arXiv 2503.02175, 2509.24837."""

import numpy as np


def cosine_distance(features):
    """D_ij = 1 - cos(i, j), (N, N)."""
    features = np.asarray(features, dtype=np.float64)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return 1 - unit @ unit.T


def isolation(features):
    """Distance of each token to its nearest neighbour."""
    distance = cosine_distance(features)
    n = len(distance)
    return [min(distance[i][j] for j in range(n) if j != i) if n > 1 else 0.0 for i in range(n)]


def divprune(features, keep, first=None):
    """Start with the token farthest from its nearest neighbour; then the farthest from all chosen.

    Two tokens can be each other's nearest and tie to the last bit: `first` then says which of them starts.
    """
    distance = cosine_distance(features)
    n = len(distance)
    chosen = [int(np.argmax(isolation(features))) if first is None else first]
    while len(chosen) < keep:
        gain = [-np.inf if i in chosen else min(distance[i][j] for j in chosen) for i in range(n)]
        chosen.append(int(np.argmax(gain)))
    return chosen


def zoo_prune(features, sensitivity, keep):
    """Start with the most sensitive token; then argmax of weight times distance to the nearest chosen."""
    distance = cosine_distance(features)
    sensitivity = np.asarray(sensitivity, dtype=np.float64)
    low, high = sensitivity.min(), sensitivity.max()
    weight = np.ones_like(sensitivity) if low == high else (sensitivity - low) / (high - low + 1e-8)
    chosen = [int(np.argmax(weight))]
    while len(chosen) < keep:
        gain = [
            -np.inf if i in chosen else weight[i] * min(distance[i][j] for j in chosen)
            for i in range(len(weight))
        ]
        chosen.append(int(np.argmax(gain)))
    return chosen
