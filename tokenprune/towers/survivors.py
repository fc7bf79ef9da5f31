# SPDX-License-Identifier: Apache-2.0
"""The rows of a vision tower that are left after a cut, and how its output is widened to all."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..gather import take
from .image import TowerImage


@dataclass(frozen=True)
class Survivors:
    """The rows of a tower that are left after a cut.

    Attributes
    ----------
    keep
        (B, M) which rows are left of a batch, or (1, M) of one sequence with all images.
    starts
        First row of each image within its sequence, and the end of the last one; for a batch, `n_prefix`.
    per_token
        Rows that are merged into each token after the tower.
    """

    keep: Tensor
    starts: tuple[int, ...]
    per_token: int
    n_prefix: int = 0
    packed: bool = False

    @classmethod
    def of(
        cls,
        images: Sequence[TowerImage],
        rows_left: Sequence[Tensor],
        shape: tuple[int, int],
        n_prefix: int,
        packed: bool,
    ) -> Survivors:
        """Return what is left of S sequences of M rows, given the rows left of each image."""
        keep = torch.ones(shape, dtype=torch.bool, device=rows_left[0].device)
        flat = keep.view(-1)
        flat[torch.cat([image.rows.flatten() for image in images])] = False
        flat[torch.cat([rows.flatten() for rows in rows_left])] = True
        starts = [n_prefix, shape[1]]
        if packed:
            starts = [0]
            for image in images:
                starts.append(starts[-1] + image.rows.numel())
        return cls(keep, tuple(starts), images[0].rows.shape[1], n_prefix, packed)

    @functools.cached_property
    def count(self) -> int:
        """Number of rows left in each sequence; a batch has equally many in each."""
        return int(self.keep[0].sum())

    @property
    def n_tokens(self) -> int:
        """Number of tokens left in each sequence."""
        return (self.count - self.n_prefix) // self.per_token

    @property
    def n_all(self) -> int:
        """Number of tokens of each sequence before any cut."""
        return (self.keep.shape[1] - self.n_prefix) // self.per_token

    @functools.cached_property
    def index(self) -> Tensor:
        """(B, K) the rows that are left, ascending."""
        return self.keep.nonzero()[:, 1].view(len(self.keep), -1)

    @functools.cached_property
    def ranks(self) -> Tensor:
        """(B, M) the place of each row that is left among those left."""
        return self.keep.cumsum(1) - 1

    def rows_left(self, table: Tensor) -> Tensor:
        """Entries (M, ...) or (1 or B, M, ...) of a table for all rows, of those that are left.

        A table without a batch axis has two axes.
        """
        return table[self.index[0].to(table.device)] if table.ndim == 2 else take(table, self.index)

    def borders_left(self, borders: Tensor) -> Tensor:
        """Borders of the segments (windows, frames) of one sequence that have rows left."""
        before = torch.nn.functional.pad(self.ranks[0] + 1, (1, 0))
        left: Tensor = torch.unique_consecutive(before[borders.to(before.device).long()])
        return left.to(borders)

    def places_in(self, before: Survivors | None) -> Tensor:
        """(B, K) where these rows are among those left by an earlier cut; None: among all rows."""
        if before is None:
            return self.index
        return self.keep[before.keep].view(len(self.keep), -1).nonzero()[:, 1].view(len(self.keep), -1)

    @functools.cached_property
    def token_slots(self) -> Tensor:
        """The same as `slots` for tokens."""
        return self.slots(self.per_token)

    def slots(self, group: int = 1) -> Tensor:
        """Which group of consecutive rows that is left stands in for each, prefixes left out, (B, N).

        It is the survivor at or before it in its own image, else the image's first.
        """
        keep = self.keep[:, self.n_prefix :: group]
        before = torch.nn.functional.pad(keep.cumsum(1), (1, 0))
        slots = torch.empty_like(keep, dtype=torch.long)
        borders = [(start - self.n_prefix) // group for start in self.starts]
        for start, end in zip(borders, borders[1:], strict=False):
            first = before[:, start, None]
            slots[:, start:end] = (before[:, start + 1 : end + 1] - 1).maximum(first)
        return slots

    def left_of(self, segments: Sequence[int]) -> list[int]:
        """How many rows are left of each segment of a sequence, without those that lost all."""
        counts = [int(part.sum()) for part in torch.split(self.keep[0], list(segments))]
        return [count for count in counts if count]

    def widen_tokens(self, rows: Tensor, images: range | None = None) -> Tensor:
        """Widen one row for each token that is left to all tokens.

        Parameters
        ----------
        rows
            (B, K, ...) of a batch, or (K, ...) of one sequence.
        images
            Which images of the batch these are; None: all.
        """
        slots = self.token_slots.to(rows.device)
        if self.packed:
            return rows.index_select(-2, slots[0]) if rows.ndim == 3 and len(rows) == 1 else rows[slots[0]]
        if images is not None:
            slots = slots[images.start : images.stop]
        return take(rows, slots)

    def widen_rows(self, rows: Tensor) -> Tensor:
        """Widen the rows of the tower that are left, (B, K, D) or (K, D), to all of its rows."""
        prefix = torch.arange(self.n_prefix, device=self.keep.device).expand(len(self.keep), -1)
        places = torch.cat([prefix, self.slots() + self.n_prefix], 1)
        return rows[places[0].to(rows.device)] if rows.ndim == 2 else take(rows, places)
