# SPDX-License-Identifier: Apache-2.0
"""Tokens of alike images at a cut inside a vision tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..layout import Layout
from .image import TowerImage
from .survivors import Survivors


class Left(NamedTuple):
    """The tokens left of an image that can be kept, (K,) each; see `TokenGroup`."""

    tokens: Tensor
    sizes: Tensor
    is_new: Tensor

    @classmethod
    def all_of(cls, n: int, device: torch.device) -> Left:
        """All `n` tokens of an image."""
        tokens = torch.arange(n, device=device)
        return cls(tokens, torch.ones(n, device=device), torch.zeros_like(tokens, dtype=torch.bool))

    def shown(self, shown: Tensor | None) -> Left:
        """Those that show more than padding, by a mask (N,); None: all."""
        return self if shown is None else Left(*(column[shown.to(column.device)] for column in self))


@dataclass(frozen=True)
class TokenGroup:
    """The N tokens that each of B alike images has left at a cut.

    Attributes
    ----------
    numbers
        Numbers of the images.
    layout
        Where the tokens lie in each image.
    tokens
        (B, N) the tokens, ascending.
    rows
        (B, N, P) the tower's rows that each is made of, as indices into its flattened rows.
    sequences, places
        (B, 1, 1) the sequence of rows that each image is in, and (B, N, P) the places of its rows there,
        among those that are left.
    sizes
        (B, N) the number of tokens that each stands for, after earlier merging.
    is_new
        (B, N) which rows an earlier reducer made, in the places of dropped tokens.
    """

    numbers: Sequence[int]
    layout: Layout
    tokens: Tensor
    rows: Tensor
    sequences: Tensor
    places: Tensor
    sizes: Tensor
    is_new: Tensor

    @classmethod
    def of(
        cls,
        numbers: Sequence[int],
        images: Sequence[TowerImage],
        left: Sequence[Left],
        n_rows: int,
        before: Survivors | None,
    ) -> TokenGroup:
        """Gather what is left of images with equally many tokens.

        Parameters
        ----------
        images, left
            All images of the run, and what is left of them.
        n_rows
            Rows of each sequence before any cut.
        before
            The rows left by the cut before; None at the first.
        """
        tokens = torch.stack([left[number].tokens for number in numbers])
        rows = torch.stack([images[number].rows for number in numbers])
        is_whole = tokens.shape[1] == rows.shape[1]
        rows = rows if is_whole else rows.gather(1, tokens[..., None].expand(-1, -1, rows.shape[2]))
        sequences, places = rows[:, :1, :1] // n_rows, rows % n_rows
        if before is not None:
            places = before.ranks[sequences, places]
        layout = images[numbers[0]].layout if is_whole else Layout((1, 1, tokens.shape[1]))
        sizes = torch.stack([left[number].sizes for number in numbers])
        is_new = torch.stack([left[number].is_new for number in numbers])
        return cls(numbers, layout, tokens, rows, sequences, places, sizes, is_new)
