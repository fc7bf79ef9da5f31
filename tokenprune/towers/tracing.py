# SPDX-License-Identifier: Apache-2.0
"""Record what a run of a vision tower did at a cut, for `PruningHandle.trace`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..boundaries import BoundaryTrace, RowTrace


def boundary_before(
    block: int, n_before: Sequence[int], tokens: Sequence[Tensor], beside: int
) -> BoundaryTrace:
    """Trace the boundary before a block, with an entry for each image of the tower.

    Parameters
    ----------
    beside
        Rows of each image that are counted besides those of its tokens.
    """
    rows = [
        RowTrace(n_in + beside, len(kept) + beside, (int(kept[0]),), (int(kept[-1]),))
        for n_in, kept in zip(n_before, tokens, strict=True)
    ]
    return BoundaryTrace("vision", block, tuple(rows), "original")
