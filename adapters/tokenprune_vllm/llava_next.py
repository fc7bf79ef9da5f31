# SPDX-License-Identifier: Apache-2.0
"""LLaVA-NeXT (LLaVA-1.6) in vLLM: a base view and tiles, packed with newline tokens between the rows."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from vllm.model_executor.models import llava_next

from tokenprune import Layout
from tokenprune.tiles import tiled_layout

from .llava import LlavaPruning, LlavaSignals
from .processing import PruningProcessor, prunable


def n_tiles(config: Any, size: Sequence[int]) -> int:
    """Tower images of a picture of this (height, width): the base view and the tiles."""
    shape = llava_next.get_anyres_image_grid_shape(
        tuple(size), config.image_grid_pinpoints, config.vision_config.image_size
    )
    return int(shape[0] * shape[1]) + 1


def row_numbers(config: Any, size: Sequence[int]) -> Tensor:
    """For each token of a picture the patch it shows, counted from 1 through its tiles, (N,); 0: a newline.

    The model's own packing is pure rearrangement: it is asked to pack row numbers.
    """
    patches, tiles = side_of(config) ** 2, n_tiles(config, size)
    numbers = torch.arange(1, tiles * patches + 1, dtype=torch.float64).view(tiles, patches, 1)
    packer = types.SimpleNamespace(config=config, image_newline=numbers.new_zeros(1))
    pack = llava_next.LlavaNextForConditionalGeneration._merge_image_patch_embeddings
    packed = pack(packer, torch.tensor(list(size)), numbers, strategy="spatial_unpad")
    rows: Tensor = packed.squeeze(-1).long()
    return rows


def side_of(config: Any) -> int:
    """Patches along a side of a tile."""
    side: int = config.vision_config.image_size // config.vision_config.patch_size
    return side


def layout_of(config: Any, size: Sequence[int]) -> Layout:
    """Layout of a picture of this (height, width)."""
    side = config.vision_config.image_size
    full = max(h // side * (w // side) for h, w in config.image_grid_pinpoints) + 1
    return tiled_layout(row_numbers(config, size), side_of(config), n_tiles(config, size), full)


class PrunedLlavaNextInfo(LlavaSignals, llava_next.LlavaNextProcessingInfo):  # type: ignore[misc]
    """Counts of a LLaVA-NeXT whose pictures are pruned."""

    family: ClassVar[str] = "llava-next"

    def layout(self, modality: str, items: Any, number: int, n: int) -> Layout:
        """Layout of a picture, from its size."""
        size = items["image"].get_image_size(number)
        return layout_of(self.get_hf_config(), (size.height, size.width))

    def n_whole(self, modality: str, item: Any) -> int:
        """Tokens of a picture, from its size."""
        return len(row_numbers(self.get_hf_config(), item["image_sizes"].data.tolist()))

    def largest(self) -> Layout:
        """Layout of the picture with most tokens."""
        size = self.get_image_size_with_most_features()
        return layout_of(self.get_hf_config(), (size.height, size.width))


class PrunedLlavaNextProcessor(  # type: ignore[misc]
    PruningProcessor, llava_next.LlavaNextMultiModalProcessor
):
    """Placeholders of a LLaVA-NeXT whose pictures are pruned."""


@prunable(llava_next.LlavaNextForConditionalGeneration, PrunedLlavaNextInfo, PrunedLlavaNextProcessor)
class PrunedLlavaNext(LlavaPruning, llava_next.LlavaNextForConditionalGeneration):  # type: ignore[misc]
    """vLLM's LLaVA-NeXT; its pictures are pruned where that is configured."""

    def tower_images(self, pixels: Tensor) -> int:
        """Its base view and tiles, padding among them."""
        return len(pixels)

    def layouts(self, image_input: Any, pictures: Sequence[Tensor]) -> list[Layout]:
        """Layout of each picture, from its size."""
        self._sizes = image_input["image_sizes"].tolist()
        self._padded = [self.tower_images(tiles) for tiles in image_input["pixel_values"]]
        return [layout_of(self.config, size) for size in self._sizes]

    def signal(self, name: str, number: int) -> Tensor:
        """One signal of one picture: rows of its tiles in the order of its tokens; zeros for newlines."""
        start, tiles = sum(self._padded[:number]), n_tiles(self.config, self._sizes[number])
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
        return flat[row_numbers(self.config, self._sizes[number]).to(flat.device)]
