# SPDX-License-Identifier: Apache-2.0
"""The thinkers of Qwen2.5-Omni and Qwen3-Omni in transformers, images and video; audio is left alone.

The thinker is the part that reads pictures, sound and text; prune `model.thinker` of the whole model. Towers
and positions are those of Qwen2.5-VL and Qwen3-VL.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

import tokenprune
from tokenprune import UnsupportedModelError

from .authoring import Specimen, TransformersAdapter
from .qwen2_5_vl import Qwen25VLAdapter
from .qwen_vl import Qwen2VLAdapter, Qwen3VLAdapter
from .tiny import specimens

LEAST = (5, 23)  # version of transformers that gave the thinkers an inner model


class OmniThinker(TransformersAdapter):
    """What both thinkers have in common."""

    def check_parts(self) -> None:
        """Refuse thinkers of older transformers, which have no inner model."""
        if not hasattr(self.inner, "get_image_features"):
            raise UnsupportedModelError(
                f"{type(self.model).__name__} can be pruned with transformers {LEAST[0]}.{LEAST[1]} or "
                "newer, where it has an inner model as other families do; install that"
            )
        super().check_parts()

    def prompt_kinds(self, ids: Tensor) -> dict[str, Tensor]:
        """Nothing: the model finds images and videos by their tokens."""
        return {}


class Qwen25OmniAdapter(OmniThinker, Qwen25VLAdapter):
    """Adapter for the thinker of Qwen2.5-Omni: Qwen2.5-VL with an audio tower beside it."""

    name: ClassVar[str] = "qwen2.5-omni"
    classes: ClassVar[tuple[str, ...]] = ("Qwen2_5OmniThinkerForConditionalGeneration",)

    @classmethod
    def specimens(cls) -> tuple[Specimen, ...]:
        """One tiny model of this family."""
        return specimens("qwen2.5-omni", least=LEAST)


class Qwen3OmniAdapter(OmniThinker, Qwen3VLAdapter):
    """Adapter for the thinker of Qwen3-Omni: Qwen3-VL, DeepStack included, with an audio tower beside it."""

    name: ClassVar[str] = "qwen3-omni"
    classes: ClassVar[tuple[str, ...]] = ("Qwen3OmniMoeThinkerForConditionalGeneration",)

    @classmethod
    def specimens(cls) -> tuple[Specimen, ...]:
        """One tiny model of this family."""
        return specimens("qwen3-omni", least=LEAST)

    merger_parts = Qwen2VLAdapter.merger_parts  # its merger has the older names


@tokenprune.hookimpl
def tokenprune_adapters() -> list[type[tokenprune.ModelAdapter]]:
    """Deliver the adapters."""
    return [Qwen25OmniAdapter, Qwen3OmniAdapter]
