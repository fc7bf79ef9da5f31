# SPDX-License-Identifier: Apache-2.0
"""VisPruner in loops, float64. METHODS: arXiv 2412.01818. An odd rest has one even place more."""

import numpy as np


def vispruner(rows, attention, keep, ratio):
    """Slots kept, those by attention first."""
    rows = np.asarray(rows, dtype=np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    score = np.asarray(attention, dtype=np.float64).mean(0)
    order = sorted(range(len(rows)), key=lambda j: (-score[j], j))
    important = order[: int(keep * ratio)]
    rest, target = order[len(important) :], keep - len(important)
    if target == 0:
        return important
    while len(rest) > target:
        even, odd = rest[0::2], rest[1::2]
        closest = {i: max(float(unit[i] @ unit[j]) for j in odd) for i in even}
        alike = sorted(even, key=lambda i: -closest[i])
        rest = alike[min(8, len(rest) - target, len(even)) :] + odd
    return important + rest
