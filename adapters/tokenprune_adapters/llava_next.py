# SPDX-License-Identifier: Apache-2.0
"""LLaVA-NeXT (LLaVA-1.6) in transformers (`LlavaNextForConditionalGeneration`).

An image is a base view and tiles laid out on a canvas; patches that show only padding are removed, and each
row of the canvas ends in a newline token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

import tokenprune
from tokenprune import Layout

from .authoring import (
    Encoded,
    FamilyTower,
    Specimen,
    TowerImage,
    TowerParts,
    pictures,
    tile_counts,
    tiled_layout,
)
from .llava import LlavaAdapter
from .tiny import specimens


class LlavaNextAdapter(LlavaAdapter):
    """Adapter for LLaVA-NeXT: LLaVA with tiles."""

    name: ClassVar[str] = "llava-next"
    classes: ClassVar[tuple[str, ...]] = ("LlavaNextForConditionalGeneration",)
    described: ClassVar[FamilyTower] = FamilyTower(
        ("clip_vision_model", "siglip_vision_model"), row_wise=("multi_modal_projector",)
    )

    @classmethod
    def specimens(cls) -> tuple[Specimen, ...]:
        """One tiny model of this family."""
        return specimens("llava-next")

    def encoder_words(self, modality: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The layer that is projected, and the sizes of pictures."""
        return ("feature_layer", "feature_rule", "sizes"), ()

    def example_picture(self, draw: torch.Generator) -> Mapping[str, Tensor]:
        """A picture on the smallest canvas."""
        return pictures.tiled(draw, self.model.config)

    def layout(self, encoded: Encoded, number: int) -> Layout:
        """Tile of each token (newlines belong to the tile before them), grids, and the maximum tile count."""
        n_tiles = len(self.tiles(encoded, number))
        return tiled_layout(self._row_numbers(encoded, number), self._side, n_tiles, self._full_tiles)

    def tiles(self, encoded: Encoded, number: int) -> range:
        """Indices of an image's tower images: the base view, then the tiles row by row."""
        counts = self._tile_counts(encoded)
        return range(sum(counts[:number]), sum(counts[: number + 1]))

    def tower(self) -> TowerParts | None:
        """The tower, which runs all tiles of a call as one batch."""
        parts = super().tower()
        return None if parts is None else dataclasses.replace(parts, tiled=True)

    def tower_images(self, arguments: Mapping[str, Any], shape: tuple[int, int]) -> list[TowerImage]:
        """The tiles of all images; patches that the packing drops are no tokens."""
        counts = tile_counts(self.inner, self.model.config, arguments["sizes"])
        shown = torch.zeros(sum(counts) * self._patches + 1, dtype=torch.bool)
        for number in range(len(counts)):
            first = sum(counts[:number]) * self._patches
            numbers = self._packed_numbers(counts[number], arguments["sizes"][number : number + 1])
            shown[numbers[numbers > 0] + first] = True
        tiles = super().tower_images(arguments, shape)
        return [
            dataclasses.replace(tile, shown=None if bool(mask.all()) else mask, full_tiles=self._full_tiles)
            for tile, mask in zip(tiles, shown[1:].view(len(tiles), -1), strict=True)
        ]

    def survivors_of(self, encoded: Encoded, number: int) -> tuple[Tensor, dict[int, int]]:
        """The tokens of an image whose patches left the tower, and its newlines, if these are kept."""
        outcome = encoded.seen.tower
        assert outcome is not None
        tiles = self.tiles(encoded, number)
        kept = torch.zeros(len(tiles) * self._patches + 1, dtype=torch.bool)
        kept[0] = outcome.keeps_newlines
        for place, tile in enumerate(tiles):
            kept[outcome.tokens[tile].cpu() + place * self._patches + 1] = True
        slots = kept[self._row_numbers(encoded, number)].nonzero().squeeze(1)
        left = {
            block: sum(outcome.left[tile][block] for tile in tiles) for block in outcome.left[tiles.start]
        }
        return slots, left

    def token_rows(self, encoded: Encoded, number: int, rows: Tensor) -> Tensor:
        """Rearrange the rows of the tiles into the order of the packed tokens; newline tokens get zeros."""
        flat = rows.flatten(0, 1)
        flat = torch.cat([flat.new_zeros(1, *flat.shape[1:]), flat])
        return flat[self._row_numbers(encoded, number).to(flat.device)]

    @property
    def _side(self) -> int:
        """Patches along a side of a tile."""
        vision = self.model.config.vision_config
        side: int = vision.image_size // vision.patch_size
        return side

    @property
    def _patches(self) -> int:
        """Number of patches of one tile."""
        return self._side**2

    @property
    def _full_tiles(self) -> int:
        """The largest number of tower images of an image: the base view, and the largest canvas's tiles."""
        side: int = self.model.config.vision_config.image_size
        canvases: list[tuple[int, int]] = self.model.config.image_grid_pinpoints
        return max(h // side * (w // side) for h, w in canvases) + 1

    def _tile_counts(self, encoded: Encoded) -> list[int]:
        """Number of tower images of each image."""
        return tile_counts(self.inner, self.model.config, encoded.arguments["sizes"])

    def _row_numbers(self, encoded: Encoded, number: int) -> Tensor:
        """The patch that each token of an image shows, numbered from 1 across its tiles; 0 for newlines."""
        sizes = encoded.arguments["sizes"][number : number + 1]
        return self._packed_numbers(len(self.tiles(encoded, number)), sizes)

    def _packed_numbers(self, n_tiles: int, sizes: Tensor) -> Tensor:
        """The same for an image of so many tiles, and its size (1, 2).

        The model's packing only rearranges rows, so it is called on row numbers.
        """
        numbers = torch.arange(1, n_tiles * self._patches + 1, dtype=torch.float64).view(n_tiles, -1, 1)
        packed, _ = self.inner.pack_image_features([numbers], sizes, "default", numbers.new_zeros(1))
        rows: Tensor = packed[0].squeeze(-1).long()
        return rows


@tokenprune.hookimpl
def tokenprune_adapters() -> list[type[tokenprune.ModelAdapter]]:
    """Deliver the adapter."""
    return [LlavaNextAdapter]
