# SPDX-License-Identifier: Apache-2.0
"""SparseVLM in loops, float64. METHODS: arXiv 2410.04417."""

import math

import numpy as np


def raters(text, image):
    """Text rows whose mean probability over image rows exceeds the mean over text rows."""
    share = np.zeros(len(text))
    for v in np.asarray(image, dtype=np.float64):
        logits = [float(v @ t) for t in np.asarray(text, dtype=np.float64)]
        powers = [math.exp(x - max(logits)) for x in logits]
        share += np.array(powers) / sum(powers)
    share /= len(image)
    return [t for t in range(len(text)) if share[t] > share.mean()]


def density_peak_means(rows, n_clusters):
    """Means of the clusters around the rows of largest density times separation, those first."""
    rows = np.asarray(rows, dtype=np.float64)
    n, width = rows.shape
    distance = [[np.linalg.norm(a - b) / math.sqrt(width) for b in rows] for a in rows]
    density = [math.exp(-np.mean([x * x for x in sorted(d)[:n_clusters]])) for d in distance]
    separation = []
    for i in range(n):
        denser = [distance[i][j] for j in range(n) if density[j] > density[i]]
        separation.append(min(denser) if denser else max(map(max, distance)))
    ranked = sorted(range(n), key=lambda i: (-density[i] * separation[i], i))
    centres = ranked[:n_clusters]
    clusters = [[rows[c]] for c in centres]
    for i in range(n):
        if i not in centres:
            nearest = min(range(n_clusters), key=lambda k: (distance[i][centres[k]], k))
            clusters[nearest].append(rows[i])
    return np.array([np.mean(cluster, axis=0) for cluster in clusters])


def envelope(query, key, head_dim, base):
    """2 sum_f cos(theta_f (q - k)) / sqrt(d_head)."""
    angles = [base ** (-2 * f / head_dim) * (query - key) for f in range(head_dim // 2)]
    return 2 * sum(map(math.cos, angles)) / math.sqrt(head_dim)


def plus_scores(attention, weights, n_heads):
    """Divide (H, R, N) probabilities by (R, N) weights, keep the heads of largest sum, average."""
    divided = np.asarray(attention, dtype=np.float64) / np.asarray(weights, dtype=np.float64)
    best = sorted(range(len(divided)), key=lambda h: (-divided[h].sum(), h))[:n_heads]
    return divided[best].mean((0, 1))
