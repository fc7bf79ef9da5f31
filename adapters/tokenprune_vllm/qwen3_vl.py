# SPDX-License-Identifier: Apache-2.0
"""Qwen3-VL and Qwen3.5 in vLLM, dense and mixture of experts, images and videos; rows keep their positions.

Time stamps stand between the frames of a video. How many rows of each frame are kept is known only after the
tower has run, while vLLM must know the number of the video's tokens before. All of its tokens, text as well,
therefore get rows from this model, each with its position.

Qwen3-VL adds rows of earlier tower blocks after its first decoder layers (DeepStack). The tower returns them
in further columns of its rows; they are kept and dropped with the row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenprune.cut import refuse_new_rows

from . import stock
from .positions import grid_offsets, prompt_positions, with_offsets
from .processing import prunable
from .qwen_vl import QwenInfo, QwenModel


class Qwen3VLInfo(QwenInfo):
    """Processing info of a pruned Qwen3-VL."""

    family: ClassVar[str] = "qwen3-vl"
    modalities: ClassVar[tuple[str, ...]] = ("image", "video")
    only_pixels: ClassVar[tuple[str, ...]] = ("video",)

    def shorten(self, modality: str, replacement: Any, sizes: list[int], kept: list[int]) -> Any:
        """Return the tokens that replace an item in a prompt; those of a video all get rows."""
        shortened = super().shorten(modality, replacement, sizes, kept)
        return stock.rows_everywhere(shortened) if modality == "video" else shortened

    def check(self) -> None:
        """Refuse settings that this model does not support: new rows have no DeepStack features."""
        super().check()
        n_layers = len(getattr(self.config.vision_config, "deepstack_visual_indexes", ()))
        if n_layers:
            refuse_new_rows(self.settings.method, n_layers)


class Qwen3VLModel(QwenModel):
    """vLLM's Qwen3-VL, with its images and videos pruned if pruning is configured."""

    family: ClassVar[str] = "qwen3-vl"

    def scored_rows(self, rows: Tensor) -> Tensor:
        """Return an item's rows without those of DeepStack, (N, D)."""
        return rows[:, : self._hf_config.vision_config.out_hidden_size]

    def _pre_features(self, index: int) -> Tensor:
        """Return the merger's inputs minus their mean, (N, P, D_v); the layer norm subtracts it anyway."""
        patches = super()._pre_features(index).float()
        return patches - patches.mean(-1, keepdim=True)

    def watch(self, needs: frozenset[str]) -> None:
        """Register hooks on the merger's norm and on the attention of the last block."""
        stock.part(self, "embeddings")
        stock.part(self, "tokenizer")
        super().watch(needs)

    def placed(self, modality: str, inputs: Any, index: int, rows: Tensor, tokens: Tensor) -> Tensor:
        """Append to each row of an item its offset from the first; a video's text stands between its rows."""
        if modality == "image":
            return super().placed(modality, inputs, index, rows, tokens)
        timestamps, grid = inputs["timestamps"][index], self._patches[index]
        offsets, is_row = self._video_offsets(grid, timestamps)
        tokens, order = tokens.sort()
        per_frame = tokens.div(int(is_row.sum()) // grid[0], rounding_mode="floor").bincount(
            minlength=grid[0]
        )
        ids, is_kept = self._video_tokens(per_frame.tolist(), timestamps)
        every_row = rows.new_zeros(len(ids), rows.shape[1])
        text = stock.text_rows(self, ids.to(rows.device))
        every_row[:, : text.shape[1]] = text
        every_row[is_kept.to(rows.device)] = rows[order.to(rows.device)]
        places = torch.zeros(len(ids), 3, dtype=torch.long)
        places[~is_kept], places[is_kept] = offsets[~is_row], offsets[is_row][tokens]
        return with_offsets(every_row, places)

    def _video_tokens(self, per_frame: Sequence[int], timestamps: Any) -> tuple[Tensor, Tensor]:
        """Return the tokens of a video with so many rows in each frame, and which are rows, (L,) each."""
        ids = torch.tensor(stock.video_tokens(self, per_frame, timestamps))
        return ids, ids == self._hf_config.video_token_id

    def _video_offsets(self, patches: Sequence[int], timestamps: Any) -> tuple[Tensor, Tensor]:
        """Return the offsets (L, 3) of an unpruned video's tokens from the first, and which are rows."""
        t, h, w = patches[0], patches[1] // self._merge, patches[2] // self._merge
        ids, is_row = self._video_tokens([h * w] * t, timestamps)
        frame = grid_offsets((1, h, w))
        starts = is_row.nonzero().flatten()[:: h * w].tolist()
        positions, _ = prompt_positions(len(ids), [(start, h * w, frame) for start in starts])
        offsets = positions.mT.contiguous()
        offsets[is_row] += frame.repeat(t, 1)
        return offsets, is_row

    def initial_positions(
        self, original: Callable[..., Any], token_ids: list[int], features: Any
    ) -> tuple[Tensor, int]:
        """Return the positions of a prompt, as far as they are known before the tower runs."""
        spans = []
        for feature in (stock.view("feature", feature) for feature in features):
            placeholder, modality = stock.view("placeholder", feature.placeholder), feature.modality
            t, h, w = stock.view("worker_field", feature.fields[f"{modality}_grid_thw"]).value.tolist()
            if modality == "video":
                timestamps = stock.view("worker_field", feature.fields["timestamps"]).value
                offsets, _ = self._video_offsets((t, h, w), timestamps)
            else:
                offsets = grid_offsets((t, h // self._merge, w // self._merge))
            spans.append((placeholder.start, placeholder.rows, offsets))
        return prompt_positions(len(token_ids), sorted(spans, key=lambda span: span[0]))


class Qwen3VLMoeInfo(Qwen3VLInfo):
    """Processing info of a pruned Qwen3-VL with experts."""

    family: ClassVar[str] = "qwen3-vl-moe"


class Qwen3VLMoeModel(Qwen3VLModel):
    """vLLM's Qwen3-VL with experts, with its images and videos pruned if pruning is configured."""

    family: ClassVar[str] = "qwen3-vl-moe"


class Qwen35Info(Qwen3VLInfo):
    """Processing info of a pruned Qwen3.5 or Qwen3.6."""

    family: ClassVar[str] = "qwen3.5"


class Qwen35Model(Qwen3VLModel):
    """vLLM's Qwen3.5, with its images and videos pruned if pruning is configured."""

    family: ClassVar[str] = "qwen3.5"


class Qwen35MoeInfo(Qwen3VLInfo):
    """Processing info of a pruned Qwen3.5 or Qwen3.6 with experts."""

    family: ClassVar[str] = "qwen3.5-moe"


class Qwen35MoeModel(Qwen3VLModel):
    """vLLM's Qwen3.5 with experts, with its images and videos pruned if pruning is configured."""

    family: ClassVar[str] = "qwen3.5-moe"


PrunedQwen3VL = prunable("PrunedQwen3VL", Qwen3VLModel, Qwen3VLInfo)
PrunedQwen3VLMoe = prunable("PrunedQwen3VLMoe", Qwen3VLMoeModel, Qwen3VLMoeInfo)
PrunedQwen35 = prunable("PrunedQwen35", Qwen35Model, Qwen35Info)
PrunedQwen35Moe = prunable("PrunedQwen35Moe", Qwen35MoeModel, Qwen35MoeInfo)
