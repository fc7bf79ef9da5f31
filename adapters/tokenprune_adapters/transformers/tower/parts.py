# SPDX-License-Identifier: Apache-2.0
"""The parts of the vision tower of a vision-language model, and where its tokens are among its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class TowerParts:
    """The parts of a vision tower.

    Attributes
    ----------
    module
        The tower; it is called once for all images of an encoding.
    blocks
        Its blocks, in order.
    n_projected
        How many of them come before the projector; tokens can be cut before these.
    widened
        Modules whose outputs, with one row for each token that is left, are widened to all tokens.
    attention
        Returns the attention module of a block; None if attention cannot be observed.
    n_prefix
        Rows of each image before its patches: 1 for a class token.
    packed
        Whether the rows of all images are one sequence (M, D) with borders, instead of a batch (B, M, D).
    tiled
        Whether several images of the tower can belong to one image of the prompt.
    rows_widened
        The module whose output is widened to all rows of the tower, for connectors that need the whole grid:
        the tower itself, or a module of it after its blocks; None if `widened` are.
    takes
        What blocks are passed for each row (keys of `stock.ARGUMENTS`); a block that does not take it is
        refused.
    pixels
        Whether the tower is passed the pixels of each of its rows.
    """

    module: nn.Module
    blocks: Sequence[nn.Module]
    n_projected: int
    widened: tuple[nn.Module, ...]
    attention: Callable[[int], nn.Module] | None
    n_prefix: int = 0
    packed: bool = False
    tiled: bool = False
    rows_widened: nn.Module | None = None
    takes: tuple[str, ...] = ()
    pixels: bool = False
