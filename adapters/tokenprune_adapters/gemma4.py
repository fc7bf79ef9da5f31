# SPDX-License-Identifier: Apache-2.0
"""Gemma 4 in transformers (`Gemma4ForConditionalGeneration`), images and video, all sizes.

The tower takes patches with their positions and pools them. The E models add inputs of their own to each
decoder layer, and their last layers share keys and values; in the larger ones image tokens attend to each
other inside the windows of the sliding layers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import tokenprune
from tokenprune import Layout, Projector, UnsupportedCallError

from .authoring import (
    MODALITY_KINDS,
    Encoded,
    ImageSignal,
    LanguageCall,
    RowPlan,
    Specimen,
    TowerImage,
    TowerParts,
    TransformersAdapter,
    argument_name,
    in_float32,
    norm_form,
    pictures,
    prune_layer_inputs,
)
from .tiny import specimens


class Gemma4Adapter(TransformersAdapter):
    """Adapter for Gemma 4: pooled patches, an RMS norm and a matrix as projector."""

    name: ClassVar[str] = "gemma-4"
    classes: ClassVar[tuple[str, ...]] = ("Gemma4ForConditionalGeneration",)

    modalities: tuple[str, ...] = ("image", "video")

    @classmethod
    def specimens(cls) -> tuple[Specimen, ...]:
        """A tiny model of the E sizes, and one of the larger sizes."""
        return specimens("gemma-4-e", "gemma-4")

    @property
    def projector_module(self) -> nn.Module:
        """The norm before the projector's matrix."""
        module: nn.Module = self.inner.embed_vision.embedding_pre_projection_norm
        return module

    def tower(self) -> TowerParts:
        """The tower, which takes pictures as padded patches and pools those of each token."""
        tower = self.vision_tower
        return TowerParts(
            module=tower,
            blocks=tower.encoder.layers,
            n_projected=len(tower.encoder.layers),
            widened=(),
            attention=lambda i: tower.encoder.layers[i].self_attn,
            rows_widened=tower.encoder,
            takes=("mask", "rotated", "positions"),
        )

    def tower_images(self, arguments: Mapping[str, Any], shape: tuple[int, int]) -> list[TowerImage]:
        """The images of a call: squares of patches by their positions.

        Where images have unequal numbers of tokens, squares of padding follow the tokens of each.
        """
        places = arguments.get("patch_positions")
        if places is None:
            raise UnsupportedCallError(
                "a cut inside the vision tower of Gemma 4 expects images: the frames of a video are a batch, "
                "whose budget would have to be divided; remove the pruning, or prune at the projector stage"
            )
        pool = self.model.config.vision_config.pooling_kernel_size
        images = [self._squares(number, of_image.cpu(), pool) for number, of_image in enumerate(places)]
        if len({len(image.rows) for image in images}) == 1:
            return images
        for number, image in enumerate(images):
            padding = torch.ones(shape[1], dtype=torch.bool)
            padding[image.rows.flatten() - number * shape[1]] = False
            rows = torch.cat([image.rows, padding.nonzero().view(-1, pool**2) + number * shape[1]])
            shown = torch.arange(len(rows)) < len(image.rows)
            images[number] = dataclasses.replace(image, rows=rows, shown=shown)
        return images

    def _squares(self, number: int, places: Tensor, pool: int) -> TowerImage:
        """The tokens of an image, from the columns and rows of its patches (M, 2), -1 for padding."""
        real = (places >= 0).all(-1)
        columns = int(places[:, 0].max()) // pool + 1
        token = places[:, 0] // pool + columns * (places[:, 1] // pool)
        n = int(real.sum()) // pool**2
        if token[real].bincount(minlength=n).tolist() != [pool**2] * n:
            raise UnsupportedCallError(
                f"the patches of a picture are not whole squares of {pool} x {pool}, which become tokens; "
                "give what the processor returns, or remove the pruning"
            )
        patches = real.nonzero().squeeze(1)[token[real].argsort(stable=True)]
        rows = patches.view(n, pool**2) + number * len(places)
        return TowerImage(rows, Layout((1, n // columns, columns)))

    def image_signals(self) -> Mapping[str, ImageSignal]:
        """The projector's inputs, one row per token."""
        return {"pre_features": self._pre_features}

    def _pre_features(self, encoded: Encoded, number: int) -> Tensor:
        """Pooled patches of one image, (N, D_v)."""
        return encoded.rows_of(number, encoded.projector_inputs[0].flatten(0, -2))

    def projector_parts(self) -> nn.Module:
        """The norm and the matrix."""
        embedder = self.inner.embed_vision
        return nn.Sequential(embedder.embedding_pre_projection_norm, embedder.embedding_projection)

    def projector(self) -> Projector:
        """RMS norm and matrix, with their closed form."""
        parts: Any = self.projector_parts()
        return Projector(in_float32(parts), lambda: norm_form(parts[0].eps, parts[1]))

    def encoder_words(self, modality: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The positions of the patches, and how many frames a video has."""
        if modality == "image":
            return ("patch_positions",), ()
        return ("video_patch_positions",), ("video_frames",)

    def layout(self, encoded: Encoded, number: int) -> Layout:
        """Grid of tokens: frames, rows and columns; a row if their number is not that of a grid."""
        n, places = encoded.lengths[number], self._places(encoded, number)
        columns, rows = (places.amax((0, 1)) + 1).tolist()
        pool = math.isqrt(max(1, len(places) * columns * rows // n))
        grid = (len(places), rows // pool, columns // pool)
        return Layout(grid if math.prod(grid) == n else (1, 1, n))

    def _places(self, encoded: Encoded, number: int) -> Tensor:
        """Positions of the patches of an image or of a video's frames, (frames, patches, 2)."""
        arguments: Mapping[str, Any] = encoded.arguments
        if "patch_positions" in arguments:
            of_images: Tensor = arguments["patch_positions"]
            return of_images[number : number + 1]
        places: Tensor = arguments["video_patch_positions"]
        if places.ndim == 4:  # one entry per video, before transformers 5.20
            return places[number]
        frames = arguments["video_frames"]
        if frames is None:
            raise UnsupportedCallError(
                f"the videos of a call cannot be told apart without {argument_name('video_frames')}; pass "
                "it, as the processor returns it"
            )
        return torch.split(places, frames.tolist())[number]

    def language_words(self) -> tuple[str, ...]:
        """The inputs of single layers."""
        return ("layer_inputs",)

    def prune_arguments(self, language: LanguageCall, plan: RowPlan) -> None:
        """Gather the kept tokens' inputs of single layers, (B, L, layers, d)."""
        prune_layer_inputs(language, plan)

    def token_arguments(self, ids: Tensor) -> dict[str, Tensor]:
        """The inputs of single layers of text tokens, in models that have them."""
        language = self.language_model
        if not language.hidden_size_per_layer_input:
            return {}
        return {"layer_inputs": language.get_per_layer_inputs(ids, None)}

    def why_no_decoder(self) -> str:
        """Why the decoder cannot be pruned: its sliding layers."""
        return super().why_no_decoder() or "some of its layers share keys and values"

    # -- random inputs, and inputs of reference runs

    def example_picture(self, draw: torch.Generator) -> Mapping[str, Tensor]:
        """A random picture as patches with their positions."""
        vision = self.model.config.vision_config
        side = vision.pooling_kernel_size * pictures.N_UNITS // 2
        return pictures.placed_patches(draw, side, 3 * vision.patch_size**2)

    def picture_frame(self) -> tuple[int, ...]:
        """The special tokens before and after an image's tokens."""
        config = self.model.config
        return config.boi_token_id, config.eoi_token_id

    def prompt_kinds(self, ids: Tensor) -> dict[str, Tensor]:
        """Mark which tokens belong to an image and which to a video."""
        kinds = (ids == self.token_id("image")).int() + 2 * (ids == self.token_id("video")).int()
        return {MODALITY_KINDS: kinds}

    def answer_kinds(self, inputs: Mapping[str, Any], n: int) -> dict[str, Tensor]:
        """The same for a prompt and its answer, whose tokens attend causally."""
        if MODALITY_KINDS not in inputs:
            return {}
        return {MODALITY_KINDS: nn.functional.pad(inputs[MODALITY_KINDS], (0, n))}


@tokenprune.hookimpl
def tokenprune_adapters() -> list[type[tokenprune.ModelAdapter]]:
    """Deliver the adapter."""
    return [Gemma4Adapter]
