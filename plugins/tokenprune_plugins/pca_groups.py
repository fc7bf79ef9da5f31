# SPDX-License-Identifier: Apache-2.0
"""Principal components of tokens, each of which stands for a group of them, as in PruneSID.

Fang et al., ICLR 2026, arXiv 2603.09480.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLAT = 1e-12  # components with a smaller share of the first one's variance are rounding errors
POWER_ITERATIONS = 2  # as in torch.pca_lowrank


def exact_loadings(rows: Tensor, q: int) -> Tensor:
    """Return how much each token loads on the first q principal components, (N, D) -> (N, C) with C <= q.

    These are |V| of the decomposition U S V^T of the sigmoid of the rows as columns (D, N), each column with
    mean 0; V are the eigenvectors of the smaller of the two Gram matrices, in float64. Components without
    variance, of which V is arbitrary, have loadings 0.
    """
    centred = _centred(rows.detach().double())
    n, width = centred.shape
    variances, vectors = torch.linalg.eigh(centred @ centred.mT if n <= width else centred.mT @ centred)
    variances, vectors = variances.flip(0)[:q], vectors.flip(1)[:, :q]  # largest first
    has_variance = variances > FLAT * variances[0]
    if n > width:
        vectors = centred @ vectors / torch.where(has_variance, variances, 1).sqrt()
    return torch.where(has_variance, vectors.abs(), 0)


def randomized_loadings(rows: Tensor, q: int, seed: int) -> Tensor:
    """Return the loadings as the randomised `torch.pca_lowrank` does, in float32, (N, D) -> (N, C).

    The random test matrix is drawn on the CPU by a generator of its own, so that results are the same on all
    devices up to rounding, and do not depend on the global random state.
    """
    columns = _centred(rows.detach().float()).mT  # (D, N)
    is_wide = columns.shape[0] < columns.shape[1]
    matrix = columns.mT if is_wide else columns
    q = min(q, matrix.shape[1])
    generator = torch.Generator().manual_seed(seed)
    test = torch.randn(matrix.shape[1], q, generator=generator, dtype=torch.float32, device="cpu")
    basis = torch.linalg.qr(matrix @ test.to(rows.device)).Q
    for _ in range(POWER_ITERATIONS):
        basis = torch.linalg.qr(matrix.mT @ basis).Q
        basis = torch.linalg.qr(matrix @ basis).Q
    left, _, right = torch.linalg.svd(basis.mT @ matrix, full_matrices=False)
    directions: Tensor = basis @ left if is_wide else right.mT
    return directions.abs()


def _centred(rows: Tensor) -> Tensor:
    """Return the sigmoid of the rows, each minus its own mean over the features."""
    squashed = rows.sigmoid()
    return squashed - squashed.mean(-1, keepdim=True)
