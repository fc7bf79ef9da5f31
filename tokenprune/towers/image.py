# SPDX-License-Identifier: Apache-2.0
"""Where the tokens of an image are among the rows of a vision tower."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..layout import Layout


@dataclass(frozen=True)
class TowerImage:
    """One image (or tile, or video) of one run of a tower.

    Attributes
    ----------
    rows
        (N, P) the tower's rows that each token is made of, as indices into its flattened rows; the tokens are
        in the order of the prompt.
    layout
        Where the tokens lie in the image.
    shown
        (N,) False for patches that show padding only, and are no tokens of the prompt; None if all are.
    full_tiles
        The largest number of tiles of an image, which divides a budget.
    """

    rows: Tensor
    layout: Layout
    shown: Tensor | None = None
    full_tiles: int = 1
