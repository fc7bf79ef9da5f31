# SPDX-License-Identifier: Apache-2.0
"""`forward_intermediates` of a pruned tower: right, or refused before anything runs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from tokenprune import UnsupportedCallError

from .tower import Tower


def guard_intermediates(tower: Tower, cuts_of: Callable[[int, int], Mapping[int, int]]) -> Callable[..., Any]:
    """A tower's `forward_intermediates`, refused where it would lay rows that are gone on a grid.

    `cuts_of` (height, width) says before which blocks pictures of that size are cut.
    """
    original: Callable[..., Any] = tower.module.forward_intermediates
    signature = inspect.signature(original)

    @functools.wraps(original)
    def forward_intermediates(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        cuts = cuts_of(*given.arguments["x"].shape[-2:])
        last = _last_block(given.arguments["indices"], len(tower.blocks))
        if cuts and last >= min(cuts) and given.arguments["output_fmt"] != "NLC":
            raise UnsupportedCallError(
                f"forward_intermediates would lay the output of block {last} on a grid, but from block "
                f"{min(cuts)} on there are fewer tokens than patches; ask for output_fmt='NLC', for blocks "
                f"before {min(cuts)}, or remove the pruning"
            )
        return original(*args, **kwargs)

    return forward_intermediates


def _last_block(indices: Any, n_blocks: int) -> int:
    """The highest block asked for: all of them, the last n, or those in a list."""
    if indices is None or isinstance(indices, int):
        return n_blocks - 1
    return max(int(index) % n_blocks for index in indices)
