# SPDX-License-Identifier: Apache-2.0
"""Merging in loops, float64: into the most similar kept row, and ToMe's matchings (arXiv 2210.09461)."""

import numpy as np


def cosine(a, b):
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / lengths if lengths else 0.0


def absorbed(rows, kept):
    """Means (K, D) of the kept rows and the others most similar to them; ties to the first kept row."""
    rows = np.asarray(rows, dtype=np.float64)
    groups = {slot: [rows[slot]] for slot in kept}
    for slot, row in enumerate(rows):
        if slot not in groups:
            groups[max(kept, key=lambda goal, row=row: (cosine(row, rows[goal]), -goal))].append(row)
    return np.array([np.mean(groups[slot], axis=0) for slot in kept])


def tome(metric, keep, sizes):
    """Groups of slots, {kept slot: slots merged into it}, after as many matchings as `keep` rows take."""
    metric = np.asarray(metric, dtype=np.float64)
    groups = {slot: [slot] for slot in range(len(metric))}
    while len(groups) > keep:
        means = {
            slot: np.average([metric[i] for i in group], axis=0, weights=[sizes[i] for i in group])
            for slot, group in groups.items()
        }
        slots = sorted(groups)
        a, b = slots[1::2], slots[::2]
        pairs = []
        for slot in a:
            goal = max(b, key=lambda other, slot=slot: (cosine(means[slot], means[other]), -other))
            pairs.append((cosine(means[slot], means[goal]), slot, goal))
        for _, slot, goal in sorted(pairs, reverse=True)[: len(groups) - keep]:
            groups[goal] += groups.pop(slot)
    return groups


def merged(rows, groups, sizes):
    """Rows (K, D) and sizes (K,) of the groups, by slot."""
    rows = np.asarray(rows, dtype=np.float64)
    means = [
        np.average([rows[i] for i in group], axis=0, weights=[sizes[i] for i in group])
        for _, group in sorted(groups.items())
    ]
    return np.array(means), [sum(sizes[i] for i in group) for _, group in sorted(groups.items())]
