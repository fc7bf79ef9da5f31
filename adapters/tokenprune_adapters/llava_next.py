# SPDX-License-Identifier: Apache-2.0
"""LLaVA-NeXT (LLaVA-1.6) in transformers (`LlavaNextForConditionalGeneration`).

An image is a base view and tiles laid out on a canvas; patches that show only padding are removed, and each
row of the canvas ends in a newline token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune
from tokenprune import Layout

from .authoring import Encoded, Specimen, pictures, tile_counts, tiled_layout
from .llava import LlavaAdapter
from .tiny import specimens


class LlavaNextAdapter(LlavaAdapter):
    """Adapter for LLaVA-NeXT: LLaVA with tiles."""

    name: ClassVar[str] = "llava-next"
    classes: ClassVar[tuple[str, ...]] = ("LlavaNextForConditionalGeneration",)

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
        side = self.model.config.vision_config.image_size
        full = max(h // side * (w // side) for h, w in self.model.config.image_grid_pinpoints) + 1
        n_tiles = len(self.tiles(encoded, number))
        return tiled_layout(self._row_numbers(encoded, number), self._side, n_tiles, full)

    def tiles(self, encoded: Encoded, number: int) -> range:
        """Indices of an image's tower images: the base view, then the tiles row by row."""
        counts = self._tile_counts(encoded)
        return range(sum(counts[:number]), sum(counts[: number + 1]))

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

    def _tile_counts(self, encoded: Encoded) -> list[int]:
        """Number of tower images of each image."""
        return tile_counts(self.inner, self.model.config, encoded.arguments["sizes"])

    def _row_numbers(self, encoded: Encoded, number: int) -> Tensor:
        """The patch that each token of an image shows, numbered from 1 across its tiles; 0 for newlines.

        The model's packing only rearranges rows, so it is called on row numbers.
        """
        n_tiles = len(self.tiles(encoded, number))
        numbers = torch.arange(1, n_tiles * self._patches + 1, dtype=torch.float64).view(n_tiles, -1, 1)
        sizes = encoded.arguments["sizes"][number : number + 1]
        packed, _ = self.inner.pack_image_features([numbers], sizes, "default", numbers.new_zeros(1))
        rows: Tensor = packed[0].squeeze(-1).long()
        return rows


@tokenprune.hookimpl
def tokenprune_adapters() -> list[type[tokenprune.ModelAdapter]]:
    """Deliver the adapter."""
    return [LlavaNextAdapter]
