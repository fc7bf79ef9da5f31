# SPDX-License-Identifier: Apache-2.0
"""Qwen2.5-VL in vLLM, images and videos. Kept rows keep their positions; the tower uses window order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenprune import IncompatibleError, Layout
from tokenprune.towers.image import TowerImage

from . import stock
from .errors import EngineRefusedError
from .info import PruningInfo
from .positions import grid_offsets, prompt_positions
from .processing import prunable
from .qwen_vl import QwenInfo, QwenModel
from .settings import Settings
from .tower_cuts import TowerCuts
from .tower_run import TOWER_SIGNALS


class Qwen25VLInfo(QwenInfo):
    """Processing info of a pruned Qwen2.5-VL."""

    family: ClassVar[str] = "qwen2.5-vl"
    modalities: ClassVar[tuple[str, ...]] = ("image", "video")
    takes_fields: ClassVar[bool] = True

    @classmethod
    def tower_signals(cls, config: Any) -> frozenset[str]:
        """Return the signals inside the tower."""
        return TOWER_SIGNALS

    @classmethod
    def tower_blocks(cls, config: Any) -> int:
        """Return the number of blocks of the tower."""
        return int(config.vision_config.depth)

    def check_fields(self, modality: str, fields: Mapping[str, Any]) -> None:
        """Refuse videos without the duration of their frames, which the positions of later text depend on."""
        if modality == "video" and fields.get("second_per_grid_ts") is None:
            raise IncompatibleError(
                "a video whose rows come from another engine needs second_per_grid_ts beside video_grid_thw "
                "(seconds between frames after temporal merging, one number per video)"
            )


class Qwen25VLModel(QwenModel):
    """vLLM's Qwen2.5-VL, with its images and videos pruned if pruning is configured."""

    family: ClassVar[str] = "qwen2.5-vl"
    info: ClassVar[type[PruningInfo]] = Qwen25VLInfo
    item_grids: Callable[[Any], Any]  # vLLM's

    def watch(self, needs: frozenset[str]) -> None:
        """Register hooks on the merger's norm and on the last block with full attention."""
        self._window_order = stock.part(self, "window_order").wrapped
        for name in ("tower_blocks", "merging", "tower_attention"):  # those of a cut inside the tower
            stock.part(self, name)
        super().watch(needs)

    def cut_tower(self, settings: Settings) -> TowerCuts:
        """Register hooks on the blocks of the tower and on the merger, whose output is widened."""
        self._merge = self._hf_config.vision_config.spatial_merge_size
        self._window_order = stock.part(self, "window_order").wrapped
        if stock.uses_flashinfer(self):
            raise EngineRefusedError(
                "tokenprune: a cut inside the vision tower does not know the lengths that FlashInfer's "
                "attention is given; choose another --mm-encoder-attn-backend"
            )
        cuts = super().cut_tower(settings)
        cuts.widen_after(stock.part(self, "merging").wrapped)
        return cuts

    def _token_order(self, grid: Sequence[int]) -> Tensor:
        """Return the place of each token of an item in window order, (N,)."""
        order: Tensor = self._window_order(*grid)[0].argsort()
        return order

    def tower_images(self, patches: Sequence[Sequence[int]], shape: tuple[int, int]) -> list[TowerImage]:
        """Return the items of one sequence, whose tokens are in the order of windows."""
        images, start, per_token = [], 0, self._merge**2
        for t, h, w in patches:
            order = self._token_order((t, h, w)).cpu()
            rows = start + order[:, None] * per_token + torch.arange(per_token)
            images.append(TowerImage(rows, Layout((t, h // self._merge, w // self._merge))))
            start += t * h * w
        return images

    def attention(self) -> Any:
        """Return the attention layer of the last block with full attention."""
        return stock.part(self, "attention", max(stock.part(self, "full_attention_blocks").wrapped))

    def in_token_order(self, patches: Tensor, grid: Sequence[int]) -> Tensor:
        """Return the patches (N, P, ...) of an item's tokens, given its patches in window order."""
        order = self._token_order(grid).to(patches.device)
        return patches.view(len(order), -1, *patches.shape[1:])[order]

    def frame_step(self, inputs: Any, modality: str, index: int) -> float:
        """Return the difference in position between consecutive frames of an item."""
        if modality == "image":
            return 1.0
        seconds = inputs.get("second_per_grid_ts")
        seconds_per_frame = 1.0 if seconds is None else float(seconds.flatten()[index])
        return seconds_per_frame * float(getattr(self._hf_config.vision_config, "tokens_per_second", 1.0))

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
