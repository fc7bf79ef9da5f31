# SPDX-License-Identifier: Apache-2.0
"""InternVL in vLLM, images and videos: crops of an image and frames of a video have budgets of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from tokenprune import LinearForm
from tokenprune.projector import two_layer_form

from .crops import CropsInfo, CropsModel
from .processing import prunable


def crop_tokens(config: Any) -> int:
    """Return the number of tokens of a crop or a frame."""
    return int(config.image_seq_length)


class InternVLInfo(CropsInfo):
    """Processing info of a pruned InternVL."""

    vllm_max_frames: Callable[[int, Any], int]  # vLLM's

    family: ClassVar[str] = "internvl"
    modalities: ClassVar[tuple[str, ...]] = ("image", "video")
    crop_counts = {"image": "image_num_patches", "video": "video_num_patches"}
    crop_tokens = crop_tokens

    def max_tokens_per_item(self, original: Callable[..., Any], *arguments: Any) -> dict[str, int]:
        """Return the number of tokens of the largest image and video, without pruning."""
        n_frames = self.vllm_max_frames(*arguments)
        largest = super().max_tokens_per_item(original, *arguments)
        return {**largest, "video": n_frames * len(self.largest_layout)}


class InternVLModel(CropsModel):
    """vLLM's InternVL, with its images and videos pruned if pruning is configured."""

    family: ClassVar[str] = "internvl"
    crop_tokens = crop_tokens

    def read_form(self) -> LinearForm | None:
        """Return the weights of layer norm -> linear -> activation -> linear, for centred rows."""
        norm = self.parts["norm"]
        layers = (self.parts[name].wrapped for name in ("first_layer", "activation", "second_layer"))
        form = two_layer_form(*layers)
        return None if form is None else form.after_layer_norm(norm.weight, norm.shift, float(norm.eps))

    def pre_features(self, index: int) -> Tensor:
        """Return a crop's rows minus their mean, (N, D_v); the layer norm subtracts it anyway."""
        rows = super().pre_features(index).float()
        return rows - rows.mean(-1, keepdim=True)


PrunedInternVL = prunable("PrunedInternVL", InternVLModel, InternVLInfo)
