# SPDX-License-Identifier: Apache-2.0
"""Record what a run of a tower did at its boundaries, for `PruningHandle.trace`."""

from __future__ import annotations

from torch import Tensor

from tokenprune import BoundaryTrace, RowTrace


def boundary_before(
    block: int, n_in: int, rows: Tensor, n_patches: int, place: Tensor | None
) -> BoundaryTrace:
    """Trace the boundary before a block: of `n_in` rows per picture, `rows` (B, n_prefix + K, D) are left.

    Parameters
    ----------
    n_patches
        Number of patches of each picture.
    place
        (B, K) the patch whose position each row has; None if no patch was dropped.
    """
    ends = [(0, n_patches - 1)] * len(rows) if place is None else place[:, [0, -1]].tolist()
    n_out = rows.shape[1]
    traces = tuple(RowTrace(n_in, n_out, (first,), (last,)) for first, last in ends)
    return BoundaryTrace("vision", block, traces, "original")
