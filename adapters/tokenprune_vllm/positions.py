# SPDX-License-Identifier: Apache-2.0
"""Kept rows of a picture keep their rotary positions, on models where these have three axes.

Which rows stay is known only after the tower ran, but vLLM asks for positions before. So a picture's rows
are all given the position of its first row, and carry their distance from it in extra columns behind their
features; just before the decoder runs the distances are added, in place, to the positions vLLM made. Text
stands right from the start: its positions depend on the sizes of pictures, not on what is kept of them.

This survives prefix-cache hits that end inside a picture, and prefills in pieces: every row carries its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COLUMNS = 6
_BASE = 256  # whole numbers up to 256 are exact in bfloat16


def with_offsets(rows: Tensor, offsets: Tensor) -> Tensor:
    """Rows (K, D) with their distances (K, 3) in extra columns (K, D + 6), high and low part."""
    parts = torch.cat([offsets // _BASE, offsets % _BASE], dim=1)
    return torch.cat([rows, parts.to(rows)], dim=1)


def split_offsets(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Take rows (K, D + 6) apart again: (K, D) and (K, 3)."""
    parts = rows[:, -COLUMNS:].round().long()
    return rows[:, :-COLUMNS], parts[:, :3] * _BASE + parts[:, 3:]


def grid_offsets(grid: tuple[int, int, int], per_frame: float = 1.0) -> Tensor:
    """Distances of a picture's tokens from its first, (N, 3): frame, line, column, in raster order.

    Parameters
    ----------
    per_frame
        Positions from a frame to the next; fractions are cut off, as the model does.
    """
    axes = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    offsets = torch.stack([axis.flatten() for axis in axes], dim=1)
    offsets[:, 0] = (offsets[:, 0].double() * per_frame).long()  # as vLLM counts
    return offsets


def prompt_positions(n_tokens: int, spans: Iterable[tuple[int, int, Tensor]]) -> tuple[Tensor, int]:
    """Positions of a prompt, (3, n_tokens), a picture's rows all at its first; and what to add afterwards.

    Parameters
    ----------
    spans
        Of each picture in order: where its rows begin, how many there are, all its tokens' distances.

    Returns
    -------
    tuple
        Positions, and the position of the first new token minus `n_tokens`.
    """
    positions = torch.zeros(n_tokens, dtype=torch.long)
    done = position = 0
    for begin, n_rows, offsets in spans:
        positions[done:begin] = torch.arange(begin - done) + position
        position += begin - done
        positions[begin : begin + n_rows] = position
        position += int(offsets.max()) + 1
        done = begin + n_rows
    positions[done:] = torch.arange(n_tokens - done) + position
    return positions.expand(3, -1).clone(), position + (n_tokens - done) - n_tokens


class OwnPositions:
    """Mixed in before a model with three position axes, behind `PruningModel`; methods as there."""

    _moves: tuple[Tensor, Tensor] | None = None

    def rows_of_a_step(
        self, vllm: Callable[..., Tensor], token_ids: Tensor, pictures: Any, is_picture: Tensor | None
    ) -> Tensor:
        """Rows of a step; distances are taken off the pictures' and kept until the decoder runs."""
        self._moves = None
        if pictures is not None and len(pictures):
            assert is_picture is not None
            parts = [split_offsets(rows) for rows in pictures]
            pictures = [rows for rows, _ in parts]
            where = is_picture.nonzero().squeeze(1).to(token_ids.device, non_blocking=True)
            self._moves = where, torch.cat([offsets for _, offsets in parts])
        return vllm(token_ids, pictures, is_picture)

    def run_decoder(self, vllm: Callable[..., Any], positions: Tensor) -> Any:
        """Run the model, after the pictures' rows of this step were put where they belong."""
        if self._moves is not None:
            where, offsets = self._moves
            positions[:, where] += offsets.mT.to(positions)  # vLLM fills this buffer anew for each step
            self._moves = None
        return vllm(positions)
