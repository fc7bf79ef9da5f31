# SPDX-License-Identifier: Apache-2.0
"""PriorTR in loops, float64. METHODS_2026: arXiv 2606.24156."""

import math

import numpy as np


def scores(rows, query="question", heads="mean", last_row=True, eps=1e-10):
    """Terms of the divergence of one row set from the first row, of rows (H, R, N) after the image."""
    rows = np.asarray(rows, dtype=np.float64)
    n_heads, n_rows, n = rows.shape
    of_question = list(range(n_rows if last_row else n_rows - 1))
    if query == "last" or not of_question:
        of_question = [n_rows - 1]
    p, q = [], []
    for j in range(n):
        asked = [sum(rows[h, r, j] for r in of_question) / len(of_question) for h in range(n_heads)]
        before = [rows[h, 0, j] for h in range(n_heads)]
        p.append(max(asked) if heads == "max" else sum(asked) / n_heads)
        q.append(max(before) if heads == "max" else sum(before) / n_heads)
    total_p, total_q = sum(p) + eps, sum(q) + eps
    return np.array(
        [a / total_p * math.log((a / total_p + eps) / (b / total_q + eps)) for a, b in zip(p, q, strict=True)]
    )
