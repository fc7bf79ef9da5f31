# SPDX-License-Identifier: Apache-2.0
"""Random pictures in the formats that vision towers take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

N_UNITS = 8  # visual tokens along a side of a picture, for models that take pictures of any size


def noise(draw: torch.Generator, *shape: int) -> Tensor:
    """Draw pixels as a processor normalises them, with mean 0 and standard deviation 1."""
    return torch.randn(shape, generator=draw)


def side_of(config: Any) -> tuple[int, int] | None:
    """Height and width of the tower's pictures; None if the configuration does not define them."""
    size = getattr(getattr(config, "vision_config", None), "image_size", None)
    if isinstance(size, int):
        return size, size
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return int(size[0]), int(size[1])
    return None


def tiled(draw: torch.Generator, config: Any) -> dict[str, Tensor]:
    """A picture on the smallest canvas of a tiled model: the base view, then its tiles."""
    side = config.vision_config.image_size
    height, width = min(config.image_grid_pinpoints, key=lambda canvas: canvas[0] * canvas[1])
    n_tiles = 1 + (height // side) * (width // side)
    return {
        "images": noise(draw, 1, n_tiles, 3, side, side),
        "sizes": torch.tensor([[height, width]]),
    }


def sized(draw: torch.Generator, config: Any, unit: int) -> dict[str, Tensor]:
    """A picture of a few units in height and width, for models that receive its size."""
    most = config.vision_config.image_size // unit
    height, width = unit * min(N_UNITS, most), unit * max(1, min(N_UNITS, most) - 1)
    return {"images": noise(draw, 1, 3, height, width), "sizes": torch.tensor([[height, width]])}


def patches(draw: torch.Generator, config: Any) -> dict[str, Tensor]:
    """A picture as packed patches, and its grid."""
    vision = config.vision_config
    merge = vision.spatial_merge_size
    grid = (1, merge * N_UNITS, merge * (N_UNITS - 2))
    channels = getattr(vision, "in_channels", None) or vision.in_chans
    values = channels * vision.temporal_patch_size * vision.patch_size**2
    return {"images": noise(draw, grid[1] * grid[2], values), "image_grids": torch.tensor([grid])}
