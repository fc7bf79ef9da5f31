# SPDX-License-Identifier: Apache-2.0
"""LLaVA-OneVision in transformers (`LlavaOnevisionForConditionalGeneration`), images and video.

Tiles are packed like LLaVA-NeXT's, and large pictures are interpolated after the projector; the frames of a
video are pooled there. Projector inputs are rearranged in the same way, so that each token has one row: that
of its patch, or of the patches it was interpolated from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import tokenprune

from .authoring import Encoded, Family, FamilyAdapter, Specimen, config_value, of_layers, tile_counts
from .tiny import specimens


class LlavaOnevisionAdapter(FamilyAdapter):
    """Adapter for LLaVA-OneVision: a family whose projector inputs are packed into its tokens."""

    name: ClassVar[str] = "llava-onevision"
    families: ClassVar[Mapping[str, Family]] = {
        "LlavaOnevisionForConditionalGeneration": Family(
            rows=lambda inner: of_layers(inner.multi_modal_projector)
        )
    }

    @classmethod
    def specimens(cls) -> tuple[Specimen, ...]:
        """One tiny model of this family."""
        return specimens("llava-onevision")

    def encoder_words(self, modality: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The sizes of pictures, their number in each row, and how they are packed."""
        return (("sizes", "images_of_rows", "packing") if modality == "image" else ()), ()

    def newlines(self, rows: Any) -> list[Tensor]:
        """Masks of the newline tokens; transformers 5.17 appends that of a video later."""
        masks = super().newlines(rows)
        if isinstance(rows, Tensor) and not bool(masks[0][-1]):
            masks = [nn.functional.pad(mask, (0, 1), value=True) for mask in masks]
        return masks

    def _pre_features(self, encoded: Encoded, number: int) -> Tensor:
        """Projector inputs of one image or video, (N, D_v); zeros for newlines."""
        inputs = encoded.projector_inputs[0]
        newline = inputs.new_zeros(inputs.shape[-1])
        if "sizes" not in encoded.arguments:
            pooled: Tensor = self.inner.apply_pooling(inputs)
            video = pooled.reshape(len(encoded.lengths), -1, pooled.shape[-1])[number]
            return torch.cat([video, newline[None]])
        counts = self._tile_counts(encoded)
        start, packing = sum(counts[:number]), encoded.arguments["packing"]
        packed, _ = self.inner.pack_image_features(
            [inputs[start : start + counts[number]]],
            encoded.arguments["sizes"][number : number + 1],
            newline,
            packing or config_value(self.model.config, "packing"),
        )
        rows: Tensor = packed[0]
        return rows

    def _tile_counts(self, encoded: Encoded) -> list[int]:
        """Number of tower images of each image: one if it shares its row of the batch with others."""
        counts = tile_counts(self.inner, self.model.config, encoded.arguments["sizes"])
        in_row = encoded.arguments["images_of_rows"]
        if in_row is None:
            return counts
        alone = [n == 1 for n in in_row.tolist() for _ in range(n)]
        return [n if is_tiled else 1 for n, is_tiled in zip(counts, alone, strict=True)]


@tokenprune.hookimpl
def tokenprune_adapters() -> list[type[tokenprune.ModelAdapter]]:
    """Deliver the adapter."""
    return [LlavaOnevisionAdapter]
