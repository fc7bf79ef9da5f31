# SPDX-License-Identifier: Apache-2.0
"""Qwen2-VL and Qwen3-VL in transformers, images and video.

Unlike Qwen2.5-VL's, their towers process patches in token order, and their mergers begin with a layer norm.
Qwen3-VL adds features of the tower to the visual rows after its first decoder layers.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import tokenprune
from tokenprune import Cut, IncompatibleError, Projector

from .authoring import (
    Encoded,
    LanguageCall,
    RowPlan,
    Specimen,
    centred,
    in_float32,
    layer_norm_form,
    prune_deepstack,
    refuse_new_rows,
)
from .qwen2_5_vl import Qwen25VLAdapter
from .tiny import specimens


class Qwen2VLAdapter(Qwen25VLAdapter):
    """Adapter for Qwen2-VL: Qwen2.5-VL without window attention."""

    name: ClassVar[str] = "qwen2-vl"
    classes: ClassVar[tuple[str, ...]] = ("Qwen2VLForConditionalGeneration",)

    @classmethod
    def specimens(cls) -> tuple[Specimen, ...]:
        """One tiny model of this family."""
        return specimens("qwen2-vl")

    def vision_attention(self) -> nn.Module:
        """The attention module of the last block."""
        attention: nn.Module = self.vision_tower.blocks[-1].attn
        return attention

    def merger_parts(self) -> tuple[Any, nn.Module, nn.Module, nn.Module]:
        """The merger's layer norm, linear, activation, linear."""
        merger: Any = self.projector_module
        return (merger.ln_q, *merger.mlp)

    def projector(self) -> Projector:
        """The merger, for rows (N, P, D_v), with its closed form if its weights can be read."""
        run = in_float32(self.projector_module)
        return Projector(lambda rows: run(rows.flatten(0, -2)), lambda: layer_norm_form(*self.merger_parts()))

    def tower_places(self, grids: Tensor) -> Tensor:
        """The place of each token among those of the tower, which has no windows, (tokens,)."""
        return torch.arange(int(grids.prod(1).sum()) // self._merged)

    def _pre_features(self, encoded: Encoded, number: int) -> Tensor:
        """Merger inputs minus their mean, (N, P, D_v); the merger's layer norm subtracts it anyway."""
        return centred(super()._pre_features(encoded, number))


class Qwen3VLAdapter(Qwen2VLAdapter):
    """Adapter for Qwen3-VL: adds rows of earlier tower blocks after the first decoder layers (DeepStack)."""

    name: ClassVar[str] = "qwen3-vl"
    classes: ClassVar[tuple[str, ...]] = (
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLMoeForConditionalGeneration",
    )

    @classmethod
    def specimens(cls) -> tuple[Specimen, ...]:
        """One tiny model of this family."""
        return specimens("qwen3-vl")

    def merger_parts(self) -> tuple[Any, nn.Module, nn.Module, nn.Module]:
        """The merger's layer norm, linear, activation, linear."""
        merger: Any = self.projector_module
        return merger.norm, merger.linear_fc1, merger.act_fn, merger.linear_fc2

    def mergers(self) -> tuple[nn.Module, ...]:
        """The merger, and those of the rows that are added in the decoder."""
        return (self.projector_module, *self.vision_tower.deepstack_merger_list)

    @property
    def first_layer(self) -> int:
        """The first decoder layer before which all DeepStack rows have been added."""
        return len(self.vision_tower.deepstack_visual_indexes)

    def check(self, cut: Cut) -> None:
        """Refuse cuts before the last DeepStack layer, and new rows, which have no DeepStack features."""
        super().check(cut)
        method, schedule = cut.method, cut.method.schedule
        if method.stage == "projector":
            refuse_new_rows(method, self.first_layer)
        if method.stage == "decoder" and schedule is not None:
            boundaries = schedule.boundaries(len(self.layers))
            if min(boundaries) < self.first_layer:
                raise IncompatibleError(
                    f"method {method.name!r} cuts before layer {min(boundaries)}, but this model adds rows "
                    f"to all visual tokens after its first {self.first_layer} layers; give layer= or "
                    f"schedule= from {self.first_layer} on"
                )

    def language_words(self) -> tuple[str, ...]:
        """The mask of visual tokens, and the DeepStack rows."""
        return "visual", "added"

    def prune_arguments(self, language: LanguageCall, plan: RowPlan) -> None:
        """Prune the mask of visual tokens and the DeepStack rows."""
        prune_deepstack(language, plan)


@tokenprune.hookimpl
def tokenprune_adapters() -> list[type[tokenprune.ModelAdapter]]:
    """Deliver the adapters."""
    return [Qwen2VLAdapter, Qwen3VLAdapter]
