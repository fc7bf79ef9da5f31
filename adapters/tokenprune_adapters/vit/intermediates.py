# SPDX-License-Identifier: Apache-2.0
"""Guard `forward_intermediates` of a pruned tower: refuse grids that have missing tokens."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from tokenprune import UnsupportedCallError

from .tower import Tower


def guard_intermediates(tower: Tower, cuts_of: Callable[[int, int], Mapping[int, int]]) -> Callable[..., Any]:
    """Wrap a tower's `forward_intermediates` to refuse to reshape pruned rows to a grid.

    `cuts_of` (height, width) returns the number of rows kept before each cut block.
    """
    original: Callable[..., Any] = tower.module.forward_intermediates
    signature = inspect.signature(original)

    @functools.wraps(original)
    def forward_intermediates(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        cuts = cuts_of(*bound.arguments["x"].shape[-2:])
        last = _last_block(bound.arguments["indices"], len(tower.blocks))
        if cuts and last >= min(cuts) and bound.arguments["output_fmt"] != "NLC":
            raise UnsupportedCallError(
                f"forward_intermediates would reshape the output of block {last} to a grid, but from block "
                f"{min(cuts)} on there are fewer tokens than patches; ask for output_fmt='NLC', for blocks "
                f"before {min(cuts)}, or remove the pruning"
            )
        return original(*args, **kwargs)

    return forward_intermediates


def _last_block(indices: Any, n_blocks: int) -> int:
    """The last requested block, from None (all), a number of last blocks, or a list of indices."""
    if indices is None or isinstance(indices, int):
        return n_blocks - 1
    return max(int(index) % n_blocks for index in indices)
