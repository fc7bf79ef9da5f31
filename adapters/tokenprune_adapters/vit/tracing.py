# SPDX-License-Identifier: Apache-2.0
"""Recording what a run of a tower did at its boundaries, for `PruningHandle.trace`."""

from __future__ import annotations

from torch import Tensor

from tokenprune import BoundaryTrace, RowTrace


def boundary_before(
    block: int, n_in: int, rows: Tensor, n_patches: int, place: Tensor | None
) -> BoundaryTrace:
    """Record the boundary before a block, which gets rows (B, n_prefix + K, D) of the `n_in` that arrived.

    Parameters
    ----------
    n_patches
        Patches of each picture.
    place
        (B, K) the patch whose position each row has; None: all patches are there.
    """
    ends = [(0, n_patches - 1)] * len(rows) if place is None else place[:, [0, -1]].tolist()
    n_out = rows.shape[1]
    each = tuple(RowTrace(n_in, n_out, (first,), (last,)) for first, last in ends)
    return BoundaryTrace("vision", block, each, "original")
