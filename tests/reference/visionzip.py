# SPDX-License-Identifier: Apache-2.0
"""VisionZip in loops, float64: all rows before the projector. METHODS: arXiv 2412.04467."""

import numpy as np


def visionzip(hidden, cls_attention, keys, dominant, contextual):
    """Rows [CLS, dominant - 1 patches in index order, contextual rows]; hidden and keys start with CLS."""
    hidden, cls_attention, keys = (np.asarray(a, dtype=np.float64) for a in (hidden, cls_attention, keys))
    score = cls_attention.sum(0)[1:]
    best = sorted(range(len(score)), key=lambda j: (-score[j], j))[: dominant - 1]
    kept = [0, *(j + 1 for j in sorted(best))]
    rest = [j for j in range(len(hidden)) if j not in kept]
    step = max(1, len(rest) // contextual)
    targets = [rest[i * step] for i in range(contextual)]
    merged = {t: [] for t in targets}
    for j in rest:
        if j not in targets:
            cosines = [
                keys[j] @ keys[t] / (np.linalg.norm(keys[j]) * np.linalg.norm(keys[t])) for t in targets
            ]
            merged[targets[int(np.argmax(cosines))]].append(hidden[j])
    rows = [hidden[t] + (np.mean(merged[t], axis=0) if merged[t] else 0) for t in targets]
    return np.concatenate([hidden[kept], np.array(rows).reshape(-1, hidden.shape[1])])
