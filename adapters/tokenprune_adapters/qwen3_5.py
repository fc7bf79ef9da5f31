# SPDX-License-Identifier: Apache-2.0
"""Qwen3.5 and Qwen3.6 in transformers (`Qwen3_5...`), dense and mixture of experts, images and video.

Three of four decoder layers are linear attention, whose cache is a state of fixed size: after a pruned prompt
it is the state of the kept rows. Tower, merger and positions are Qwen3-VL's, without DeepStack.
"""

from __future__ import annotations

from typing import ClassVar

import tokenprune

from .authoring import Specimen
from .qwen_vl import Qwen2VLAdapter, Qwen3VLAdapter
from .tiny import specimens


class Qwen35Adapter(Qwen2VLAdapter):
    """Adapter for Qwen3.5: Qwen2-VL with Qwen3-VL's merger; its decoder cannot be cut inside."""

    name: ClassVar[str] = "qwen3.5"
    classes: ClassVar[tuple[str, ...]] = (
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration",
    )

    @classmethod
    def specimens(cls) -> tuple[Specimen, ...]:
        """One tiny model of this family."""
        return specimens("qwen3.5")

    merger_parts = Qwen3VLAdapter.merger_parts


@tokenprune.hookimpl
def tokenprune_adapters() -> list[type[tokenprune.ModelAdapter]]:
    """Deliver the adapter."""
    return [Qwen35Adapter]
