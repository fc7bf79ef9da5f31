# SPDX-License-Identifier: Apache-2.0
"""HiPrune in loops, float64. METHODS_2026: arXiv 2508.00553."""

import numpy as np


def received(query, key, with_class):
    """Mean over heads and all queries of softmax(q k^T / sqrt(d)), (H, M, d); the class column is dropped."""
    query, key = (np.asarray(rows, dtype=np.float64) for rows in (query, key))
    maps = []
    for q, k in zip(query, key, strict=True):
        looks = np.exp(q @ k.T / q.shape[-1] ** 0.5)
        maps.append(looks / looks.sum(1, keepdims=True))
    mean = np.mean(maps, 0).mean(0)
    return mean[1:] if with_class else mean


def best(scores):
    """Slots from the highest score to the lowest, ties by slot."""
    return sorted(range(len(scores)), key=lambda j: (-scores[j], j))


def around(slot, width, n, inside):
    """Left, right, above and below."""
    found = []
    for step in (-1, 1, -width, width):
        if width == n and abs(step) == width:
            continue  # a single row
        other = slot + step
        if inside:
            same_row = other // width == slot // width
            if not 0 <= other < n or (abs(step) == 1 and width > 1 and not same_row):
                continue
            if abs(step) == 1 and width == 1:
                continue
        found.append(min(max(other, 0), n - 1))
    return found


def first_step(shallow, keep, alpha, width, inside=False):
    """Anchors, then the buffers: all left ones, all right ones, all above, all below."""
    shallow = np.asarray(shallow, dtype=np.float64)
    anchors = best(shallow)[: round(keep * alpha / 5)]
    return anchors, [other for slot in anchors for other in around(slot, width, len(shallow), inside)]


def hiprune(shallow, deep, keep, alpha, width, inside=False):
    """Slots kept; nothing is picked twice."""
    anchors, buffers = first_step(shallow, keep, alpha, width, inside)
    picked = list(dict.fromkeys([*anchors, *buffers]))
    if len(picked) > keep:
        return None  # which buffers are left out is tested by hand
    rest = [slot for slot in best(np.asarray(deep, dtype=np.float64)) if slot not in picked]
    return sorted(picked + rest[: keep - len(picked)])


def hiprune_qwen(shallow, deep, keep, alpha, width):
    """Slots kept where 1 is taken from the sums of anchors and buffers, which may be picked again."""
    anchors, buffers = first_step(shallow, keep, alpha, width)
    picked = set(anchors + buffers)
    sums = np.asarray(deep, dtype=np.float64).copy()
    for slot in picked:
        sums[slot] -= 1
    return sorted(picked | set(best(sums)[: keep - len(picked)]))
