# SPDX-License-Identifier: Apache-2.0
"""Projector sensitivity, a token and a direction at a time, float64. METHODS: arXiv 2509.24837, Eq. 2-3."""

import torch


def sampled(projector, rows, directions, step):
    """S_i = 1/m sum_j || M(x_i + h u_j) - M(x_i - h u_j) || / (2 h)."""
    scores = []
    for x in rows:
        total = 0.0
        for u in directions:
            moved = projector(x + step * u) - projector(x - step * u)
            total += float(moved.norm()) / (2 * step)
        scores.append(total / len(directions))
    return torch.tensor(scores, dtype=torch.float64)


def jacobian_norm(projector, rows):
    """|| J ||_F / sqrt(D_v) with the Jacobian from autograd."""
    scores = []
    for x in rows:
        jacobian = torch.autograd.functional.jacobian(projector, x)
        scores.append(float(jacobian.norm()) / x.numel() ** 0.5)
    return torch.tensor(scores, dtype=torch.float64)


def spearman(a, b):
    """Rank correlation of two score vectors without ties."""
    ranks = torch.stack([x.argsort().argsort().double() for x in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])
