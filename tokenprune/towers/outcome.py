# SPDX-License-Identifier: Apache-2.0
"""What the cuts of one run of a vision tower left of its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..boundaries import BoundaryTrace
from .image import TowerImage
from .survivors import Survivors


@dataclass
class Outcome:
    """What the cuts of one encoding left.

    Attributes
    ----------
    images
        The images of the tower.
    tokens
        (K,) the tokens left of each, ascending.
    left
        For each image, the number of its tokens left from each block on; empty if all are.
    states
        The survivors after each cut, in order.
    notes
        Why images were left alone, by their number.
    keeps_newlines
        Whether separator tokens, which are no patches, are kept on top of the budget.
    blocks
        The blocks before which rows were dropped, one for each of `states`.
    merged
        For these blocks, the rows (K, P) of tokens, as indices into the tower's flattened rows, that a
        reducer replaced by others (K, P * D).
    boundaries
        What was recorded at each cut, for traces.
    seconds
        Time spent on choosing.
    capped
        Of images cut by a rule, by their number, whether its limit stopped the selector.
    """

    images: Sequence[TowerImage]
    tokens: list[Tensor]
    left: list[dict[int, int]]
    states: list[Survivors] = field(default_factory=list)
    notes: Mapping[int, str] = field(default_factory=dict)
    keeps_newlines: bool = False
    blocks: list[int] = field(default_factory=list)
    merged: dict[int, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    boundaries: list[BoundaryTrace] = field(default_factory=list)
    seconds: float = 0.0
    capped: dict[int, bool] = field(default_factory=dict)

    @property
    def survivors(self) -> Survivors | None:
        """The rows that left the tower; None if none was dropped."""
        return self.states[-1] if self.states else None

    @property
    def borders(self) -> Tensor:
        """First row of each image among those left of a sequence, and the end of the last one."""
        counts = [
            len(tokens) * image.rows.shape[1] for tokens, image in zip(self.tokens, self.images, strict=True)
        ]
        return torch.tensor([0, *counts]).cumsum(0)

    def note_capped(self, number: int, capped: bool | None) -> None:
        """Note what a cut of an image says of its rule; None: it has none."""
        if capped is not None:
            self.capped[number] = capped or self.capped.get(number, False)

    def filled_up(self, number: int, kept: Tensor, n: int) -> Tensor:
        """Add padding to the tokens kept of a tile, to `n`: tiles of a batch keep equally many."""
        shown, before = self.images[number].shown, self.tokens[number]
        if shown is None or len(kept) == n:
            return kept
        padding = before[~shown.to(before.device)[before]]
        return torch.cat([kept, padding[: n - len(kept)]]).sort().values
