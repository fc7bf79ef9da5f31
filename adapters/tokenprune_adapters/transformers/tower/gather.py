# SPDX-License-Identifier: Apache-2.0
"""Shorten the arguments that a tower passes to each of its blocks to the rows that are left."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokenprune import UnsupportedCallError
from tokenprune.towers.survivors import Survivors

from ..calls import BlockCall


class ShortArguments:
    """Shortens the arguments of blocks, which are passed for all rows; the same one is shortened once."""

    def __init__(self, survivors: Survivors) -> None:
        self.survivors = survivors
        self._cached: dict[int, tuple[Any, Any]] = {}  # the argument too, so that its id stays its own

    def shorten(self, block: BlockCall) -> None:
        """Shorten all arguments of a block but its rows, in place.

        Raises
        ------
        UnsupportedCallError
            When an unknown tensor has a row for each of the tower's rows.
        """
        block.segments = self._once(block.segments, self.survivors.borders_left)
        if block.longest is not None:
            assert block.segments is not None
            longest = block.segments.diff().max()
            block.longest = longest.to(block.longest) if isinstance(block.longest, Tensor) else int(longest)
        block.rotated = self._once(block.rotated, self._rotations)
        block.mask = self._once(block.mask, self._mask)
        block.positions = self._once(block.positions, self._positions)
        if self.survivors.packed and block.segments is None and block.mask is None:
            raise UnsupportedCallError(
                "the blocks of the vision tower are not told by a mask which rows are of the same image, as "
                "with flash attention, and those that are left would be read as others; load the model with "
                "attn_implementation='sdpa'"
            )
        n = self.survivors.keep.shape[1]
        for name, value in block.rest.items():
            if isinstance(value, Tensor) and n in value.shape and value.shape != (1,):
                raise UnsupportedCallError(
                    f"a block of the vision tower was passed {name} of shape {tuple(value.shape)}, and it is "
                    f"not known how it depends on the {n} rows; leave it out, or remove the pruning"
                )

    def _once(self, value: Any, shorten: Any) -> Any:
        if value is None:
            return None
        if id(value) not in self._cached:
            self._cached[id(value)] = value, shorten(value)
        return self._cached[id(value)][1]

    def _rotations(self, rotated: Any) -> Any:
        """Cosines and sines (M, d) or (1 or B, M, d) of the rows left."""
        return tuple(self.survivors.rows_left(part) for part in rotated)

    def _positions(self, positions: Tensor) -> Tensor:
        """Positions (M, axes) or (1 or B, M, axes) of the rows left."""
        n = self.survivors.keep.shape[1]
        if positions.ndim not in (2, 3) or positions.shape[-2] != n:
            raise UnsupportedCallError(
                f"a block of the vision tower was passed positions of shape {tuple(positions.shape)}, "
                f"expected (batch, {n}, axes); remove the pruning for this call"
            )
        return self.survivors.rows_left(positions)

    def _mask(self, mask: Any) -> Tensor:
        """Rows and columns (1 or B, 1 or H, M, M) of the mask."""
        n = self.survivors.keep.shape[1]
        if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[-1] != n:
            shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise UnsupportedCallError(
                f"a block of the vision tower was passed an attention mask of shape {shape}, expected "
                f"(batch, heads, {n}, {n}); remove the pruning for this call"
            )
        index = self.survivors.index.to(mask.device)[:, None]
        rows = mask.expand(len(index), -1, -1, -1)
        rows = rows.gather(3, index[:, :, None].expand(*rows.shape[:3], -1))
        if mask.shape[2] == 1:
            return rows
        return rows.gather(2, index[..., None].expand(*rows.shape[:2], -1, rows.shape[3]))
