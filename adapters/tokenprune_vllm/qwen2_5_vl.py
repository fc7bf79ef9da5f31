# SPDX-License-Identifier: Apache-2.0
"""Qwen2.5-VL in vLLM, images and videos. Kept rows keep their positions; the tower uses window order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor

from . import stock
from .positions import grid_offsets, prompt_positions
from .processing import prunable
from .qwen_vl import QwenInfo, QwenModel


class Qwen25VLInfo(QwenInfo):
    """Processing info of a pruned Qwen2.5-VL."""

    family: ClassVar[str] = "qwen2.5-vl"
    modalities: ClassVar[tuple[str, ...]] = ("image", "video")


class Qwen25VLModel(QwenModel):
    """vLLM's Qwen2.5-VL, with its images and videos pruned if pruning is configured."""

    family: ClassVar[str] = "qwen2.5-vl"
    item_grids: Callable[[Any], Any]  # vLLM's

    def watch(self, needs: frozenset[str]) -> None:
        """Register hooks on the merger's norm and on the last block with full attention."""
        self._window_order = stock.part(self, "window_order").wrapped
        super().watch(needs)

    def attention(self) -> Any:
        """Return the attention layer of the last block with full attention."""
        return stock.part(self, "attention", max(stock.part(self, "full_attention_blocks").wrapped))

    def in_token_order(self, patches: Tensor, grid: Sequence[int]) -> Tensor:
        """Return the patches (N, P, ...) of an item's tokens, given its patches in window order."""
        order = self._window_order(*grid)[0].argsort().to(patches.device)
        return patches.view(len(order), -1, *patches.shape[1:])[order]

    def frame_step(self, inputs: Any, modality: str, index: int) -> float:
        """Return the difference in position between consecutive frames of an item."""
        if modality == "image":
            return 1.0
        seconds = inputs.get("second_per_grid_ts")
        seconds_per_frame = 1.0 if seconds is None else float(seconds.flatten()[index])
        return seconds_per_frame * float(getattr(self._hf_config.vision_config, "tokens_per_second", 1.0))

    def encode_videos(self, original: Callable[..., Any], inputs: Any) -> Any:
        """Encode and prune videos."""
        return self.encode("video", inputs, original)

    def initial_positions(
        self, original: Callable[..., Any], token_ids: list[int], features: Any
    ) -> tuple[Tensor, int]:
        """Return the positions of a prompt, as far as they are known before the tower runs."""
        placeholders = [
            stock.view("placeholder", stock.view("feature", feature).placeholder) for feature in features
        ]
        rows = {placeholder.start: placeholder.rows for placeholder in placeholders}
        spans = [
            (start, rows[start], grid_offsets((t, h, w), step))
            for start, t, h, w, step in self.item_grids(features)
        ]
        return prompt_positions(len(token_ids), spans)


PrunedQwen25VL = prunable("PrunedQwen25VL", Qwen25VLModel, Qwen25VLInfo)
