# SPDX-License-Identifier: Apache-2.0
"""Refuse cuts before blocks at which a tower does not have what the method reads."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..errors import IncompatibleError, PluginError, TokenPruneError, UnsupportedCallError
from ..methods import Method
from ..option_types import is_integer

FROM_ATTENTION = frozenset({"cls_attention", "received_attention", "key_metric"})
FROM_CLASS_TOKEN = frozenset({"cls_attention", "cls_hidden"})
PIXELS, SIZES = "pixels", "sizes"
RECEIVED, DEPTH = "tower_received", "tower_depth"
OF_BLOCKS = frozenset({RECEIVED, DEPTH})
PROBE = (7, 64)  # rows to keep of how many, with which a reducer is asked whether it makes new ones


def check_blocks(method: Method, boundaries: Sequence[int], provided: frozenset[str]) -> None:
    """Raise if the blocks of a cut are too early or too late for the signals of a method.

    Parameters
    ----------
    boundaries
        The blocks before which tokens are cut, ascending.
    provided
        Signals of the tower.

    Raises
    ------
    IncompatibleError
        With the reason, and what to do.
    """
    if boundaries[0] == 0 and method.needs & FROM_ATTENTION:
        raise IncompatibleError(
            f"method {method.name!r} reads the attention of the block before the cut, and there is none "
            "before block 0; give layer=1 or later"
        )
    if tuple(boundaries) != (0,) and PIXELS in method.needs & provided:
        raise IncompatibleError(
            f"method {method.name!r} reads the pixels of patches, which are mixed from block 0 on; give "
            "layer=0"
        )


def blocks_read(method: Method, depth: int) -> tuple[int, ...]:
    """Return the blocks of a tower whose attention the parts of a method read, ascending.

    Parameters
    ----------
    depth
        Number of the tower's blocks, up to the last whose output is projected.

    Raises
    ------
    IncompatibleError
        When a part reads a block that the tower does not have.
    PluginError
        When `Strategy.tower_blocks` fails, or does not return a tuple of integers.
    """
    blocks: set[int] = set()
    for part in method.parts:
        if RECEIVED not in part.needs:
            continue
        who = f"the {part.kind} {part.name!r}"
        try:
            read = part.tower_blocks(depth)
        except TokenPruneError:
            raise
        except Exception as error:  # third-party code
            raise PluginError(f"{who}: tower_blocks failed: {type(error).__name__}: {error}") from error
        if not isinstance(read, tuple) or not all(map(is_integer, read)):
            raise PluginError(f"{who}: tower_blocks must return a tuple of integers, got {read!r}")
        outside = sorted(block for block in read if not 0 <= block < depth)
        if outside:
            raise IncompatibleError(
                f"{who} reads the attention of block {', '.join(map(str, outside))} of the vision tower, but "
                f"the rows that reach the projector are taken after block {depth - 1}; choose from "
                f"0 ... {depth - 1}"
            )
        blocks.update(map(int, read))
    return tuple(sorted(blocks))


def check_reducer(method: Method) -> None:
    """Raise if a method's reducer makes new rows, which have no place in a language model's tower.

    Raises
    ------
    IncompatibleError
        With the reason, and what to do.
    """
    if method.reducer is None:
        return
    keep, n = PROBE
    reducer = method.parts[-1]
    if reducer.n_selected(keep, n) != keep:  # type: ignore[attr-defined]
        raise IncompatibleError(
            f"the reducer {reducer.name!r} makes new rows, which have no place among the patches of a "
            "vision tower; choose one that keeps the selected rows, or none"
        )


def check_equal_counts(method: Method, tokens: Sequence[Tensor]) -> None:
    """Raise if unequal numbers of tokens are left of images that a tower runs as one batch.

    Raises
    ------
    UnsupportedCallError
        With the numbers, and what to do.
    """
    counts = sorted({len(each) for each in tokens})
    if len(counts) > 1:
        raise UnsupportedCallError(
            f"method {method.name!r} keeps {', '.join(map(str, counts))} tokens of the pictures of this "
            "call, which the vision tower runs as one batch, of equal lengths; pass one picture in a call, "
            "or choose a method that keeps equally many of each"
        )
