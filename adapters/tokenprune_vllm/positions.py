# SPDX-License-Identifier: Apache-2.0
"""Kept rows keep their original positions in models with three-axis rotary positions (M-RoPE).

vLLM computes positions before the tower runs, but the selection is known only afterwards. All rows of an item
(an image or a video) therefore get the position of its first row first, and each row carries its offset from
it in extra columns of its features. The offsets are added in place to vLLM's positions just before the
decoder runs. Text has its final positions from the start, because they depend on the sizes of the items and
not on the selection.

Because each row carries its own offset, this also works with chunked prefill, and with prefix-cache hits that
end inside an item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COLUMNS = 6
_BASE = 256  # integers up to 256 are exact in bfloat16


def with_offsets(rows: Tensor, offsets: Tensor) -> Tensor:
    """Append the offsets (K, 3) to rows (K, D). Returns (K, D + 6): high parts, then low parts."""
    parts = torch.cat([offsets // _BASE, offsets % _BASE], dim=1)
    return torch.cat([rows, parts.to(rows)], dim=1)


def split_offsets(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Split rows (K, D + 6) into features (K, D) and offsets (K, 3)."""
    parts = rows[:, -COLUMNS:].round().long()
    return rows[:, :-COLUMNS], parts[:, :3] * _BASE + parts[:, 3:]


def grid_offsets(grid: tuple[int, int, int], per_frame: float = 1.0) -> Tensor:
    """Return the offsets of an item's tokens from its first, (N, 3): frame, line, column, in raster order.

    Parameters
    ----------
    per_frame
        Difference in position between consecutive frames; products are truncated, as in the model.
    """
    axes = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    offsets = torch.stack([axis.flatten() for axis in axes], dim=1)
    offsets[:, 0] = (offsets[:, 0].double() * per_frame).long()  # in double precision, as in vLLM
    return offsets


def prompt_positions(n_tokens: int, spans: Iterable[tuple[int, int, Tensor]]) -> tuple[Tensor, int]:
    """Return the positions of a prompt, (3, n_tokens), in which all rows of an item have its first position.

    Parameters
    ----------
    spans
        For each item, in order: the index of its first row, the number of its rows, and the offsets of all
        its tokens.

    Returns
    -------
    tuple
        The positions, and the position of the first generated token minus `n_tokens`.
    """
    positions = torch.zeros(n_tokens, dtype=torch.long)
    end = position = 0
    for start, n_rows, offsets in spans:
        positions[end:start] = torch.arange(start - end) + position
        position += start - end
        positions[start : start + n_rows] = position
        position += int(offsets.max()) + 1
        end = start + n_rows
    positions[end:] = torch.arange(n_tokens - end) + position
    return positions.expand(3, -1).clone(), position + (n_tokens - end) - n_tokens


class OriginalPositions:
    """Mixin for models with three position axes, used with `PruningModel`; its methods are as there."""

    _pending: tuple[Tensor, Tensor] | None = None  # indices of the rows of a step's items, and their offsets

    def merge_item_rows(
        self, original: Callable[..., Tensor], token_ids: Tensor, items: Any, is_item: Tensor | None
    ) -> Tensor:
        """Merge item rows into the embeddings of a step, and move their offsets to `_pending`."""
        self._pending = None
        if items is not None and len(items):
            assert is_item is not None
            parts = [split_offsets(rows) for rows in items]
            items = [rows for rows, _ in parts]
            indices = is_item.nonzero().squeeze(1).to(token_ids.device, non_blocking=True)
            self._pending = indices, torch.cat([offsets for _, offsets in parts])
        return original(token_ids, items, is_item)

    def run_decoder(self, original: Callable[..., Any], positions: Tensor) -> Any:
        """Run the decoder, after adding the stored offsets to the positions of the items' rows."""
        if self._pending is not None:
            indices, offsets = self._pending
            positions[:, indices] += offsets.mT.to(positions)  # vLLM fills this buffer again for each step
            self._pending = None
        return original(positions)
