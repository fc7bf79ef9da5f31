# SPDX-License-Identifier: Apache-2.0
"""Layouts of an image's tokens, from the size of its picture or from their number; tiles of pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from tokenprune import Layout


def grid_of(size: Sequence[int], unit: int, n: int) -> Layout:
    """Grid of a picture of `size` (height, width) with one token per square of `unit` pixels.

    A single row of `n` tokens if the grid does not have `n` cells.
    """
    h, w = (int(side) // unit for side in size)
    return Layout((1, h, w) if h * w == n else (1, 1, n))


def square_of(n: int) -> Layout:
    """Square grid if `n` is a square number, as for towers with square inputs; otherwise one row."""
    side = round(n**0.5)
    return Layout((1, side, side) if side * side == n else (1, 1, n))


def tile_counts(inner: nn.Module, config: Any, sizes: Iterable[Any]) -> list[int]:
    """Number of tower images of pictures of these sizes (height, width), by the model's own function."""
    count: Any = sys.modules[type(inner).__module__].image_size_to_num_patches
    points, side = config.image_grid_pinpoints, config.vision_config.image_size
    return [count(image_size=size, grid_pinpoints=points, patch_size=side) for size in sizes]
