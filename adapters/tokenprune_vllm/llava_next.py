# SPDX-License-Identifier: Apache-2.0
"""LLaVA-NeXT (LLaVA-1.6) in vLLM: a base view and tiles, whose lines of patches end in newline tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenprune import Layout
from tokenprune.tiles import tiled_layout

from . import stock
from .info import PruningInfo
from .llava import LlavaInfo, LlavaPruning
from .processing import prunable


def n_tiles(config: Any, size: Sequence[int]) -> int:
    """Return the number of tower images of an image of size (height, width): its base view and its tiles."""
    rows, columns = stock.grid_of_tiles(config, size)
    return rows * columns + 1


def patch_numbers(config: Any, size: Sequence[int]) -> Tensor:
    """Return the patch of each token of an image, (N,), counted from 1 through all tiles; 0 for newlines.

    The model's own packing, which only rearranges rows, is applied to the numbers of the patches.
    """
    patches, tiles = side_of(config) ** 2, n_tiles(config, size)
    numbers = torch.arange(1, tiles * patches + 1, dtype=torch.float64).view(tiles, patches, 1)
    return stock.pack_tiles(config, size, numbers, newline=numbers.new_zeros(1)).squeeze(-1).long()


def side_of(config: Any) -> int:
    """Return the number of patches along a side of a tile."""
    side: int = config.vision_config.image_size // config.vision_config.patch_size
    return side


def layout_of(config: Any, size: Sequence[int]) -> Layout:
    """Return the layout of an image of size (height, width)."""
    side = config.vision_config.image_size
    max_tiles = max(h // side * (w // side) for h, w in config.image_grid_pinpoints) + 1
    return tiled_layout(patch_numbers(config, size), side_of(config), n_tiles(config, size), max_tiles)


class LlavaNextInfo(LlavaInfo):
    """Processing info of a pruned LLaVA-NeXT."""

    largest_size: Callable[[], Any]  # vLLM's

    family: ClassVar[str] = "llava-next"
    takes_fields: ClassVar[bool] = False

    @classmethod
    def tower_signals(cls, config: Any) -> frozenset[str]:
        """Return no signals: tiles of an image would have to share its budget inside the tower."""
        return frozenset()

    def layout(self, modality: str, items: Any, index: int, n: int) -> Layout:
        """Return the layout of an image from its size."""
        return layout_of(self.config, stock.size_of(items, index))

    def n_unpruned(self, modality: str, item: Any) -> int:
        """Return the number of tokens of an image from its size."""
        sizes = stock.view("worker_field", item["image_sizes"]).value
        return len(patch_numbers(self.config, sizes.tolist()))

    def largest(self) -> Layout:
        """Return the layout of the image with the most tokens."""
        return layout_of(self.config, stock.height_and_width(self.largest_size()))


class LlavaNextModel(LlavaPruning):
    """vLLM's LLaVA-NeXT, with its images pruned if pruning is configured."""

    family: ClassVar[str] = "llava-next"
    info: ClassVar[type[PruningInfo]] = LlavaNextInfo

    def watch(self, needs: frozenset[str]) -> None:
        """Register hooks on the tower and before the projector, and check that the model has newlines."""
        super().watch(needs)
        stock.part(self, "newline")

    def tower_images(self, pixels: Tensor) -> int:
        """Return the number of tower images of an image: its base view, its tiles and padding."""
        return len(pixels)

    def layouts(self, inputs: Any, images: Sequence[Tensor]) -> list[Layout]:
        """Return the layout of each image from its size."""
        self._sizes = inputs["image_sizes"].tolist()
        self._padded = [self.tower_images(tiles) for tiles in inputs["pixel_values"]]
        return [layout_of(self._hf_config, size) for size in self._sizes]

    def signal(self, name: str, index: int) -> Tensor:
        """Compute a signal of an image: rows of its tiles in the order of its tokens, zeros for newlines."""
        start, tiles = sum(self._padded[:index]), n_tiles(self._hf_config, self._sizes[index])
        rows = self._tower(name)[start : start + tiles]
        if name == "cls_hidden":
            return rows.squeeze(1)  # one row per tile
        if name == "cls_attention":
            return self._packed(rows.mT, index).mT  # (H, N)
        return self._packed(rows, index)

    def _packed(self, rows: Tensor, index: int) -> Tensor:
        """Arrange rows (tiles, P, ...) in the order of an image's tokens, (N, ...)."""
        flat = rows.flatten(0, 1)
        flat = torch.cat([flat.new_zeros(1, *flat.shape[1:]), flat])
        return flat[patch_numbers(self._hf_config, self._sizes[index]).to(flat.device)]


PrunedLlavaNext = prunable("PrunedLlavaNext", LlavaNextModel, LlavaNextInfo)
