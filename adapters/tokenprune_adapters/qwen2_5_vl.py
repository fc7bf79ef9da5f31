# SPDX-License-Identifier: Apache-2.0
"""Qwen2.5-VL in transformers (`Qwen2_5_VLForConditionalGeneration`), images and video.

The tower processes patches in window order; four patches are merged into each token, and the merger
normalises every patch separately. Positions have three axes and are not renumbered: kept tokens keep theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import tokenprune
from tokenprune import Cut, IncompatibleError, Layout, LinearForm, Projector
from tokenprune.functional import mean_attention

from .authoring import (
    MODALITY_KINDS,
    Encoded,
    ImageSignal,
    Specimen,
    TowerImage,
    TowerParts,
    TransformersAdapter,
    in_float32,
    pictures,
    two_layer_form,
    window_places,
)
from .tiny import specimens


class Qwen25VLAdapter(TransformersAdapter):
    """Adapter for Qwen2.5-VL: any resolution, window attention, a merger, three-axis rotary positions."""

    name: ClassVar[str] = "qwen2.5-vl"
    classes: ClassVar[tuple[str, ...]] = ("Qwen2_5_VLForConditionalGeneration",)
    modalities: tuple[str, ...] = ("image", "video")
    position_axes = 3

    @classmethod
    def specimens(cls) -> tuple[Specimen, ...]:
        """One tiny model of this family."""
        return specimens("qwen2.5-vl")

    @property
    def positions(self) -> tuple[str, ...]:
        """Only original positions: a grid of positions cannot be renumbered contiguously."""
        return ("original",)

    def check(self, cut: Cut) -> None:
        """Refuse sliding windows: they count stored tokens, while kept tokens keep their positions."""
        if self.slides:
            raise IncompatibleError(
                f"{type(self.model).__name__} with use_sliding_window cannot be pruned: its "
                "windows count stored tokens, and its kept tokens keep their positions"
            )
        super().check(cut)

    @property
    def vision_tower(self) -> Any:
        """The vision tower."""
        return self.inner.visual

    @property
    def projector_module(self) -> nn.Module:
        """The merger."""
        module: nn.Module = self.vision_tower.merger
        return module

    def vision_attention(self) -> nn.Module:
        """The attention module of the last block with full attention."""
        tower = self.vision_tower
        attention: nn.Module = tower.blocks[max(tower.fullatt_block_indexes)].attn
        return attention

    def tower(self) -> TowerParts:
        """The tower, whose rows are those of all images; whole tokens (groups of patches) are cut."""
        tower = self.vision_tower
        return TowerParts(
            module=tower,
            blocks=tower.blocks,
            n_projected=len(tower.blocks),
            widened=self.mergers(),
            attention=lambda i: tower.blocks[i].attn,
            packed=True,
            takes=("segments", "rotated"),
            pixels=True,
        )

    def mergers(self) -> tuple[nn.Module, ...]:
        """All modules that merge rows of the tower into tokens."""
        return (self.projector_module,)

    def tower_images(self, arguments: Mapping[str, Any], shape: tuple[int, int]) -> list[TowerImage]:
        """The images or videos of a call, with the groups of patches that each token is made of."""
        (grids,) = arguments.values()
        merge = self.vision_tower.spatial_merge_size
        places = self.tower_places(grids)  # of each token in the tower
        rows = places[:, None] * merge**2 + torch.arange(merge**2)
        images, start = [], 0
        for t, h, w in grids.tolist():
            layout = Layout((t, h // merge, w // merge))
            images.append(TowerImage(rows[start : start + len(layout)], layout))
            start += len(layout)
        return images

    def pixels_of(self, pixels: Tensor, rows: Tensor) -> Tensor:
        """Pixels of each token's patches, which the tower takes in the prompt's order, (N, P * values)."""
        tokens = pixels.view(-1, rows.shape[1], pixels.shape[-1])
        first = int(rows.min()) // rows.shape[1]  # windows permute tokens within an image
        return tokens[first : first + len(rows)].flatten(1)

    def encoder_words(self, modality: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The grids of patches."""
        return (f"{modality}_grids",), ()

    def example_picture(self, draw: torch.Generator) -> Mapping[str, Tensor]:
        """A random picture as packed patches, with its grid."""
        return pictures.patches(draw, self.model.config)

    def picture_frame(self) -> tuple[int, ...]:
        """The special tokens before and after an image's tokens."""
        config = self.model.config
        return config.vision_start_token_id, config.vision_end_token_id

    def prompt_kinds(self, ids: Tensor) -> dict[str, Tensor]:
        """Mark which tokens belong to an image and which to a video."""
        kinds = (ids == self.token_id("image")).int() + 2 * (ids == self.token_id("video")).int()
        return {MODALITY_KINDS: kinds}

    def image_signals(self) -> Mapping[str, ImageSignal]:
        """The merger's inputs; attention and keys, averaged over each token's patches. No class token."""
        return {
            "pre_features": self._pre_features,
            "received_attention": self._received_attention,
            "key_metric": self._key_metric,
        }

    def projector(self) -> Projector:
        """The merger, for rows (N, P, D_v), with its closed form if its weights can be read."""
        module: Any = self.projector_module
        run = in_float32(module)

        def form() -> LinearForm | None:
            plain = two_layer_form(module.mlp[0], module.mlp[1], module.mlp[2])
            if plain is None:
                return None
            weight, eps = module.ln_q.weight.detach().float(), float(module.ln_q.variance_epsilon)
            return LinearForm(plain.W1, plain.b1, plain.act, plain.W2, plain.b2, weight, eps)

        return Projector(lambda rows: run(rows.flatten(0, -2)), form)

    def layout(self, encoded: Encoded, number: int) -> Layout:
        """Grid of tokens: frames, rows and columns."""
        t, h, w = self._grids(encoded)[number].tolist()
        merge = self.vision_tower.spatial_merge_size
        return Layout((t, h // merge, w // merge))

    def _grids(self, encoded: Encoded) -> Tensor:
        """Grids of patches of each image or video: frames, rows and columns, (images, 3)."""
        (grids,) = encoded.arguments.values()
        assert grids is not None  # the encoder has no default for them
        return grids  # type: ignore[no-any-return]

    def _in_token_order(self, encoded: Encoded, number: int, patches: Tensor) -> Tensor:
        """Reorder all patch rows, in window order (M, ...), into those of an image's tokens (N, P, ...)."""
        order = self.tower_places(self._grids(encoded)).to(patches.device)
        tokens = encoded.widened(patches.view(-1, self._merged, *patches.shape[1:]))
        return encoded.rows_of(number, tokens[order])

    @property
    def _merged(self) -> int:
        """Number of patches that are merged into a token."""
        side: int = self.vision_tower.spatial_merge_size
        return side**2

    def tower_places(self, grids: Tensor) -> Tensor:
        """The place of each token among those of the tower, which are in window order, (tokens,)."""
        return window_places(self.vision_tower, grids)

    def _pre_features(self, encoded: Encoded, number: int) -> Tensor:
        """Merger inputs, (N, P, D_v)."""
        return self._in_token_order(encoded, number, encoded.projector_inputs[0])

    def _received_attention(self, encoded: Encoded, number: int) -> Tensor:
        """Attention received within the frame, averaged over heads, queries and the token's patches, (N,)."""
        calls = encoded.seen.attention  # one per frame, or one for all
        query, key = torch.cat([q for q, _, _ in calls], 2)[0], torch.cat([k for _, k, _ in calls], 2)[0]
        scaling = calls[0][2]
        frames = [h * w for t, h, w in self._grids(encoded).tolist() for _ in range(t)]
        if encoded.survivors is not None:
            frames = encoded.survivors.left_of(frames)
        received = []
        for q, k in zip(torch.split(query, frames, 1), torch.split(key, frames, 1), strict=True):
            received.append(mean_attention(q, k, scaling or q.shape[-1] ** -0.5))
        return self._in_token_order(encoded, number, torch.cat(received)).mean(1)

    def _key_metric(self, encoded: Encoded, number: int) -> Tensor:
        """Keys averaged over heads and the token's patches, (N, d_head)."""
        keys = torch.cat([call[1] for call in encoded.seen.attention], 2)[0].mean(0)
        return self._in_token_order(encoded, number, keys).mean(1)


@tokenprune.hookimpl
def tokenprune_adapters() -> list[type[tokenprune.ModelAdapter]]:
    """Deliver the adapter."""
    return [Qwen25VLAdapter]
