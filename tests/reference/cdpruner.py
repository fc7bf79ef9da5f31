# SPDX-License-Identifier: Apache-2.0
"""CDPruner with determinants, float64. METHODS: arXiv 2506.10967."""

import numpy as np


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def relevance(patches, texts):
    """Minus the mean cosine to the texts, scaled."""
    patches, texts = (np.asarray(rows, dtype=np.float64) for rows in (patches, texts))
    raw = np.array([-np.mean([cosine(p, t) for t in texts]) for p in patches])
    return (raw - raw.min() + 1e-6) / (raw.max() - raw.min())


def dpp(features, r, keep):
    """Each pick makes the determinant of the chosen kernel largest."""
    features, r = np.asarray(features, dtype=np.float64), np.asarray(r, dtype=np.float64)
    n = len(features)
    kernel = np.array([[r[i] * cosine(features[i], features[j]) * r[j] for j in range(n)] for i in range(n)])
    chosen = []
    for _ in range(keep):
        volume = {
            j: np.linalg.det(kernel[np.ix_([*chosen, j], [*chosen, j])]) for j in range(n) if j not in chosen
        }
        chosen.append(max(volume, key=lambda j: (volume[j], -j)))
    return chosen
