# SPDX-License-Identifier: Apache-2.0
"""LLaVA-NeXT (LLaVA-1.6) in vLLM: a base view and tiles, packed with newline tokens between the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenprune import Layout
from tokenprune.tiles import tiled_layout

from . import stock
from .llava import LlavaInfo, LlavaPruning
from .processing import prunable


def n_tiles(config: Any, size: Sequence[int]) -> int:
    """Tower images of a picture of this (height, width): the base view and the tiles."""
    rows, columns = stock.grid_of_tiles(config, size)
    return rows * columns + 1


def row_numbers(config: Any, size: Sequence[int]) -> Tensor:
    """For each token of a picture the patch it shows, counted from 1 through its tiles, (N,); 0: a newline.

    The model's own packing is pure rearrangement: it is asked to pack row numbers.
    """
    patches, tiles = side_of(config) ** 2, n_tiles(config, size)
    numbers = torch.arange(1, tiles * patches + 1, dtype=torch.float64).view(tiles, patches, 1)
    return stock.packed(config, size, numbers, newline=numbers.new_zeros(1)).squeeze(-1).long()


def side_of(config: Any) -> int:
    """Patches along a side of a tile."""
    side: int = config.vision_config.image_size // config.vision_config.patch_size
    return side


def layout_of(config: Any, size: Sequence[int]) -> Layout:
    """Layout of a picture of this (height, width)."""
    side = config.vision_config.image_size
    full = max(h // side * (w // side) for h, w in config.image_grid_pinpoints) + 1
    return tiled_layout(row_numbers(config, size), side_of(config), n_tiles(config, size), full)


class LlavaNextInfo(LlavaInfo):
    """Counts of a LLaVA-NeXT whose pictures are pruned."""

    largest_size: Callable[[], Any]  # vLLM's

    family: ClassVar[str] = "llava-next"

    def layout(self, modality: str, pictures: Any, number: int, n: int) -> Layout:
        """Layout of a picture, from its size."""
        return layout_of(self.config, stock.size_of(pictures, number))

    def n_whole(self, modality: str, picture: Any) -> int:
        """Tokens of a picture, from its size."""
        sizes = stock.view("picture_for_the_worker", picture["image_sizes"]).value
        return len(row_numbers(self.config, sizes.tolist()))

    def largest(self) -> Layout:
        """Layout of the picture with most tokens."""
        return layout_of(self.config, stock.height_and_width(self.largest_size()))


class LlavaNextModel(LlavaPruning):
    """vLLM's LLaVA-NeXT; its pictures are pruned where that is configured."""

    family: ClassVar[str] = "llava-next"

    def watch(self, needs: frozenset[str]) -> None:
        """Put hooks on the tower and before the projector; newlines must be there, too."""
        super().watch(needs)
        stock.part(self, "newline")

    def tower_images(self, pixels: Tensor) -> int:
        """Its base view and tiles, padding among them."""
        return len(pixels)

    def layouts(self, given: Any, pictures: Sequence[Tensor]) -> list[Layout]:
        """Layout of each picture, from its size."""
        self._sizes = given["image_sizes"].tolist()
        self._padded = [self.tower_images(tiles) for tiles in given["pixel_values"]]
        return [layout_of(self._hf_config, size) for size in self._sizes]

    def signal(self, name: str, number: int) -> Tensor:
        """One signal of one picture: rows of its tiles in the order of its tokens; zeros for newlines."""
        start, tiles = sum(self._padded[:number]), n_tiles(self._hf_config, self._sizes[number])
        rows = self._tower(name)[start : start + tiles]
        if name == "cls_hidden":
            return rows.squeeze(1)  # a row a tile
        if name == "cls_attention":
            return self._packed(rows.mT, number).mT  # (H, N)
        return self._packed(rows, number)

    def _packed(self, rows: Tensor, number: int) -> Tensor:
        """Rows (tiles, P, ...) as a picture's tokens (N, ...)."""
        flat = rows.flatten(0, 1)
        flat = torch.cat([flat.new_zeros(1, *flat.shape[1:]), flat])
        return flat[row_numbers(self._hf_config, self._sizes[number]).to(flat.device)]


PrunedLlavaNext = prunable("PrunedLlavaNext", LlavaNextModel, LlavaNextInfo)
