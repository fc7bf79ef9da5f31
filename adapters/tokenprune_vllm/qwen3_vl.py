# SPDX-License-Identifier: Apache-2.0
"""Qwen3-VL and Qwen3.5 in vLLM, dense and mixture of experts, images only. Kept rows keep their positions.

Qwen3-VL adds rows of earlier tower blocks after its first decoder layers (DeepStack). The tower returns them
in further columns of its rows; they are kept and dropped with the row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from tokenprune import IncompatibleError

from . import stock
from .positions import grid_offsets, prompt_positions
from .processing import prunable
from .qwen_vl import QwenInfo, QwenModel


class Qwen3VLInfo(QwenInfo):
    """Processing info of a pruned Qwen3-VL."""

    family: ClassVar[str] = "qwen3-vl"

    def check(self) -> None:
        """Refuse settings that this model does not support: new rows have no DeepStack features."""
        super().check()
        method = self.settings.method
        n_layers = len(getattr(self.config.vision_config, "deepstack_visual_indexes", ()))
        if method.reducer is not None and n_layers:
            raise IncompatibleError(
                f"method {method.name!r} makes new rows, and this model adds rows of earlier vision blocks "
                f"to each visual token after its first {n_layers} decoder layers: a new row has none. Choose "
                "a method that only drops tokens"
            )


class Qwen3VLModel(QwenModel):
    """vLLM's Qwen3-VL, with its images pruned if pruning is configured."""

    family: ClassVar[str] = "qwen3-vl"

    def scored_rows(self, rows: Tensor) -> Tensor:
        """Return an item's rows without those of DeepStack, (N, D)."""
        return rows[:, : self._hf_config.vision_config.out_hidden_size]

    def _pre_features(self, index: int) -> Tensor:
        """Return the merger's inputs minus their mean, (N, P, D_v); the layer norm subtracts it anyway."""
        patches = super()._pre_features(index).float()
        return patches - patches.mean(-1, keepdim=True)

    def initial_positions(
        self, original: Callable[..., Any], token_ids: list[int], features: Any
    ) -> tuple[Tensor, int]:
        """Return the positions of a prompt, as far as they are known before the tower runs."""
        spans = []
        for feature in (stock.view("feature", feature) for feature in features):
            placeholder = stock.view("placeholder", feature.placeholder)
            grid = stock.view("worker_field", feature.fields["image_grid_thw"]).value.tolist()
            t, h, w = grid
            offsets = grid_offsets((t, h // self._merge, w // self._merge))
            spans.append((placeholder.start, placeholder.rows, offsets))
        return prompt_positions(len(token_ids), sorted(spans, key=lambda span: span[0]))


class Qwen3VLMoeInfo(Qwen3VLInfo):
    """Processing info of a pruned Qwen3-VL with experts."""

    family: ClassVar[str] = "qwen3-vl-moe"


class Qwen3VLMoeModel(Qwen3VLModel):
    """vLLM's Qwen3-VL with experts, with its images pruned if pruning is configured."""

    family: ClassVar[str] = "qwen3-vl-moe"


class Qwen35Info(Qwen3VLInfo):
    """Processing info of a pruned Qwen3.5 or Qwen3.6."""

    family: ClassVar[str] = "qwen3.5"


class Qwen35Model(Qwen3VLModel):
    """vLLM's Qwen3.5, with its images pruned if pruning is configured."""

    family: ClassVar[str] = "qwen3.5"


class Qwen35MoeInfo(Qwen3VLInfo):
    """Processing info of a pruned Qwen3.5 or Qwen3.6 with experts."""

    family: ClassVar[str] = "qwen3.5-moe"


class Qwen35MoeModel(Qwen3VLModel):
    """vLLM's Qwen3.5 with experts, with its images pruned if pruning is configured."""

    family: ClassVar[str] = "qwen3.5-moe"


PrunedQwen3VL = prunable("PrunedQwen3VL", Qwen3VLModel, Qwen3VLInfo)
PrunedQwen3VLMoe = prunable("PrunedQwen3VLMoe", Qwen3VLMoeModel, Qwen3VLMoeInfo)
PrunedQwen35 = prunable("PrunedQwen35", Qwen35Model, Qwen35Info)
PrunedQwen35Moe = prunable("PrunedQwen35Moe", Qwen35MoeModel, Qwen35MoeInfo)
