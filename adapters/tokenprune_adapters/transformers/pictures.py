# SPDX-License-Identifier: Apache-2.0
"""Random pictures in the formats that vision towers take."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    merge = _merge_of(vision)
    grid = (1, merge * N_UNITS, merge * (N_UNITS - 2))
    frames = _first_of(vision, ("temporal_patch_size", "patch_temporal"), 1)
    values = _channels_of(vision) * frames * vision.patch_size**2
    return {"images": noise(draw, grid[1] * grid[2], values), "image_grids": torch.tensor([grid])}


def square_patches(draw: torch.Generator, config: Any) -> dict[str, Tensor]:
    """The same, each patch with its channels, rows and columns."""
    picture = patches(draw, config)
    side = config.vision_config.patch_size
    return {**picture, "images": picture["images"].view(-1, _channels_of(config.vision_config), side, side)}


def patches_merged_as_told(draw: torch.Generator, config: Any) -> dict[str, Tensor]:
    """The same as `patches`, for models that receive the side of what they merge."""
    merge = torch.tensor([_merge_of(config.vision_config)])
    return {**patches(draw, config), "merge_sizes": merge}


def masked_patches(draw: torch.Generator, config: Any) -> dict[str, Tensor]:
    """A square picture as patches, as many as the tower has positions; its grid, and which are real."""
    vision = config.vision_config
    side = math.isqrt(vision.num_patches)
    return {
        "images": noise(draw, 1, side * side, _channels_of(vision) * vision.patch_size**2),
        "patch_shapes": torch.tensor([[side, side]]),
        "patch_mask": torch.ones(1, side * side, dtype=torch.long),
    }


def placed_patches(draw: torch.Generator, side: int, values: int) -> dict[str, Tensor]:
    """A square picture as patches of so many values, and their columns and rows."""
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).flip(1)
    return {"images": noise(draw, 1, side * side, values), "patch_positions": places[None]}


def side_by_side(draw: torch.Generator, config: Any) -> dict[str, Tensor]:
    """A square picture as patches side by side, which pictures of a batch are too, and its grid."""
    vision = config.vision_config
    side = vision.image_size // vision.patch_size
    pixels = noise(draw, 1, 3, vision.patch_size, side * side * vision.patch_size)
    return {"images": pixels, "patch_grids": torch.tensor([[side, side]], dtype=torch.int32)}


def pooled(draw: torch.Generator, config: Any) -> dict[str, Tensor]:
    """One crop as patches, the four patches that are pooled into each token, and the grid of tokens."""
    vision = config.vision_config
    (height, width), side = side_of(config) or (0, 0), vision.patch_size
    rows, columns = height // side, width // side
    numbers = torch.arange(rows * columns).view(rows // 2, 2, columns // 2, 2)
    return {
        "images": noise(draw, 1, rows * columns, _channels_of(vision) * side**2),
        "pooled_patches": numbers.transpose(1, 2).reshape(-1, 4),
        "crop_grids": torch.tensor([[rows // 2, columns // 2, 0, 0]]),
    }


def square(draw: torch.Generator, side: int) -> dict[str, Tensor]:
    """A square picture of a side in pixels."""
    return {"images": noise(draw, 1, 3, side, side)}


def two_resolutions(draw: torch.Generator, config: Any) -> dict[str, Tensor]:
    """A square picture, and the same place in a higher resolution."""
    fine = square(draw, config.high_res_vision_config.image_size)["images"]
    return {**square(draw, config.vision_config.image_size), "fine_images": fine}


def masked_tiles(draw: torch.Generator, config: Any) -> dict[str, Tensor]:
    """One row of a batch with one tile, and which tiles are real."""
    pixels = square(draw, config.vision_config.image_size)["images"]
    return {"images": pixels[None], "patch_mask": torch.ones(1, 1, dtype=torch.bool)}


def coded(draw: torch.Generator, tokenizer: Any) -> dict[str, Tensor]:
    """A square picture of a few codes of a picture tokenizer, which halves it between levels; its size."""
    side = N_UNITS // 2 * 2 ** (len(tokenizer.channel_multiplier) - 1)
    return {**square(draw, side), "sizes": torch.tensor([[side, side]])}


def _first_of(config: Any, names: Sequence[str], default: int) -> int:
    """The first of the settings that a configuration has; of a square, its side."""
    value = next((getattr(config, name) for name in names if getattr(config, name, None)), default)
    return int(value if isinstance(value, int) else value[0])


def _merge_of(vision: Any) -> int:
    """Side of the square of patches that are merged into a token."""
    return _first_of(vision, ("spatial_merge_size", "merge_size", "merge_kernel_size"), 2)


def _channels_of(vision: Any) -> int:
    return _first_of(vision, ("in_channels", "in_chans", "num_channels"), 3)
