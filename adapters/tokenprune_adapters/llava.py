# SPDX-License-Identifier: Apache-2.0
"""LLaVA-1.5 and other models of transformers' `LlavaForConditionalGeneration`.

Every image has the same number of tokens, one per patch in raster order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import tokenprune
from tokenprune import Layout, Projector

from .authoring import (
    Encoded,
    FamilyTower,
    ImageSignal,
    Specimen,
    TransformersAdapter,
    clip_signals,
    config_value,
    grid_of,
    in_float32,
    output_field,
    pictures,
    square_of,
    two_layer_form,
)
from .tiny import specimens


class LlavaAdapter(TransformersAdapter):
    """Adapter for LLaVA: a tower, a two-layer projector, a decoder with one-dimensional rotary positions."""

    name: ClassVar[str] = "llava"
    classes: ClassVar[tuple[str, ...]] = ("LlavaForConditionalGeneration",)
    described: ClassVar[FamilyTower] = FamilyTower(
        ("clip_vision_model", "siglip_vision_model", "pixtral"),
        row_wise=("multi_modal_projector",),
        told_by="sizes",
    )

    @classmethod
    def specimens(cls) -> tuple[Specimen, ...]:
        """One tiny model of this family."""
        return specimens("llava")

    def vision_attention(self) -> nn.Module | None:
        """The attention module of the layer whose output is projected; None if there is no class token."""
        layer = config_value(self.model.config, "feature_layer")
        tower = getattr(self.vision_tower, "vision_model", self.vision_tower)
        embeddings = getattr(tower, "embeddings", None)
        # "full": the class row becomes a token, which has no place in the grid
        with_class_row = config_value(self.model.config, "feature_rule") == "full"
        if not isinstance(layer, int) or not hasattr(embeddings, "class_embedding") or with_class_row:
            return None
        # hidden state i > 0 is the output of layer i - 1; negative indices agree
        attention: nn.Module = tower.encoder.layers[layer if layer < 0 else layer - 1].self_attn
        return attention

    def encoder_words(self, modality: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The layer that is projected; optionally Pixtral's sizes, which transformers 5.17 does not take."""
        return ("feature_layer", "feature_rule"), ("sizes",)

    def image_signals(self) -> Mapping[str, ImageSignal]:
        """The projector's inputs; with a class token also its attention, keys and hidden row."""
        signals: dict[str, ImageSignal] = {"pre_features": self._pre_features}
        if self.vision_attention() is not None:
            signals |= {
                "cls_attention": self._cls_attention,
                "received_attention": self._received_attention,
                "key_metric": self._key_metric,
                "cls_hidden": self._cls_hidden,
            }
        return signals

    def projector(self) -> Projector:
        """The two-layer projector, with its closed form if its weights can be read."""
        module: Any = self.projector_module
        return Projector(
            in_float32(module), lambda: two_layer_form(module.linear_1, module.act, module.linear_2)
        )

    def layout(self, encoded: Encoded, number: int) -> Layout:
        """Pixtral's grid; a square if N is a square, as for CLIP and SigLIP towers; otherwise one row."""
        n = encoded.lengths[number]
        sizes = encoded.arguments["sizes"]
        if sizes is not None:
            return grid_of(sizes[number], self.model.config.vision_config.patch_size, n)
        return square_of(n)

    def example_picture(self, draw: torch.Generator) -> Mapping[str, Tensor] | None:
        """A square picture; for Pixtral's tower a picture of any size, with its size."""
        config = self.model.config
        if config.vision_config.model_type == "pixtral":
            return pictures.sized(draw, config, config.vision_config.patch_size)
        return super().example_picture(draw)

    # one call encodes all images, (images or tiles, N, D_v); models with tiles override `tiles` and
    # `token_rows`

    def _pre_features(self, encoded: Encoded, number: int) -> Tensor:
        """Tower rows without the class token, (N, D_v)."""
        rows = encoded.projector_inputs[0]
        has_sizes = encoded.arguments["sizes"] is not None
        if len(rows) == 1 and (has_sizes or rows.shape[1] == sum(encoded.lengths)):  # Pixtral's, as one
            return encoded.rows_of(number, encoded.widened(rows[0]))
        tiles = self.tiles(encoded, number)
        return self._tokens(encoded, number, rows[tiles.start : tiles.stop])

    def _tokens(self, encoded: Encoded, number: int, rows: Tensor) -> Tensor:
        """The same for rows of the patches that left the tower, (tiles, K, ...) -> (N, ...)."""
        return self.token_rows(encoded, number, encoded.widened(rows, self.tiles(encoded, number)))

    def _cls_attention(self, encoded: Encoded, number: int) -> Tensor:
        rows = clip_signals.cls_attention(encoded, self.tiles(encoded, number))
        return self._tokens(encoded, number, rows.mT).mT  # (H, N)

    def _received_attention(self, encoded: Encoded, number: int) -> Tensor:
        rows = clip_signals.received_attention(encoded, self.tiles(encoded, number))
        return self._tokens(encoded, number, rows)

    def _key_metric(self, encoded: Encoded, number: int) -> Tensor:
        rows = clip_signals.key_metric(encoded, self.tiles(encoded, number))
        return self._tokens(encoded, number, rows)

    def _cls_hidden(self, encoded: Encoded, number: int) -> Tensor:
        """The class token's row of the layer that is projected, (tiles, D_v)."""
        tiles = self.tiles(encoded, number)
        return encoded.seen.tower_outputs[0][tiles.start : tiles.stop]

    def class_rows(self, output: Any) -> Tensor:
        """The class token's rows of the layer that is projected, (tiles of all images, D_v)."""
        states = output_field(output, "states")
        layer = config_value(self.model.config, "feature_layer")
        rows: Tensor = states[layer][:, 0].detach().clone()
        return rows


@tokenprune.hookimpl
def tokenprune_adapters() -> list[type[tokenprune.ModelAdapter]]:
    """Deliver the adapter."""
    return [LlavaAdapter]
