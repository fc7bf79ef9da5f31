# SPDX-License-Identifier: Apache-2.0
"""Qwen3.5 and Qwen3.6 in transformers (`Qwen3_5...`), dense and mixture of experts, images and video.

Three of four decoder layers are linear attention, whose cache is a state of fixed size: after a pruned prompt
it is the state of the kept rows. Tower, merger and positions are Qwen3-VL's, without DeepStack.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

import tokenprune

from .authoring import Specimen
from .qwen_vl import Qwen2VLAdapter
from .tiny import specimens

CLASSES = ("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration")


class Qwen35Adapter(Qwen2VLAdapter):
    """Adapter for Qwen3.5: Qwen2-VL with Qwen3-VL's merger; its decoder cannot be cut inside."""

    name: ClassVar[str] = "qwen3.5"

    @classmethod
    def specimens(cls) -> tuple[Specimen, ...]:
        """One tiny model of this family."""
        return specimens("qwen3.5")

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        """Whether this is transformers' Qwen3_5ForConditionalGeneration or its MoE form (subclasses too)."""
        return any(base.__name__ in CLASSES for base in type(model).__mro__)

    def merger_parts(self) -> tuple[Any, nn.Module, nn.Module, nn.Module]:
        """The merger's layer norm, linear, activation, linear."""
        merger: Any = self.projector_module
        return merger.norm, merger.linear_fc1, merger.act_fn, merger.linear_fc2


@tokenprune.hookimpl
def tokenprune_adapters() -> list[type[tokenprune.ModelAdapter]]:
    """Deliver the adapter."""
    return [Qwen35Adapter]
