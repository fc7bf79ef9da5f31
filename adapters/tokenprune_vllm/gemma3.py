# SPDX-License-Identifier: Apache-2.0
"""Gemma 3 in vLLM: images, and their crops where the processor makes some (pan and scan)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from tokenprune import LinearForm

from . import stock
from .crops import CropsInfo, CropsModel
from .processing import prunable


def crop_tokens(config: Any) -> int:
    """Return the number of tokens of a crop."""
    return int(config.mm_tokens_per_image)


class Gemma3Info(CropsInfo):
    """Processing info of a pruned Gemma 3."""

    family: ClassVar[str] = "gemma-3"
    crop_counts = {"image": "num_patches"}
    crop_tokens = crop_tokens

    def most_tokens(self) -> int:
        """Return the number of tokens of the image with the most crops."""
        return stock.gemma3_most_tokens(self)


class Gemma3Model(CropsModel):
    """vLLM's Gemma 3, with its images pruned if pruning is configured."""

    family: ClassVar[str] = "gemma-3"
    crop_tokens = crop_tokens

    def read_form(self) -> LinearForm:
        """Return the weights of norm -> matrix; what comes before averages patches."""
        norm = self.parts["norm"]
        weight = self.parts["projector"].weight.detach().float()
        eye = torch.eye(len(weight), device=weight.device)
        scale = 1 + norm.weight.detach().float()
        return LinearForm(eye, None, nn.Identity(), weight.mT, None, scale, float(norm.eps))


PrunedGemma3 = prunable("PrunedGemma3", Gemma3Model, Gemma3Info)
