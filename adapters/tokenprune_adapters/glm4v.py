# SPDX-License-Identifier: Apache-2.0
"""GLM-4V in transformers (`Glm4v...`, `Glm4vMoe...`, `Glm46V...`), images and video.

Tower and positions are like Qwen2-VL's. The tower merges the patches of a token with a convolution, and the
merger after it works on one row for each token. Videos stand on the placeholders of images: a call has the
one or the other.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

import tokenprune
from tokenprune import Projector

from .authoring import MODALITY_KINDS, Encoded, Specimen, in_float32
from .qwen_vl import Qwen2VLAdapter
from .tiny import specimens


class Glm4vAdapter(Qwen2VLAdapter):
    """Adapter for GLM-4V: Qwen2-VL with patches merged before the merger, whose gate has no closed form."""

    name: ClassVar[str] = "glm-4v"
    classes: ClassVar[tuple[str, ...]] = (
        "Glm4vForConditionalGeneration",
        "Glm4vMoeForConditionalGeneration",
        "Glm46VForConditionalGeneration",
    )
    shares_placeholders = True

    @classmethod
    def specimens(cls) -> tuple[Specimen, ...]:
        """One tiny model of this family."""
        return specimens("glm-4v")

    def token_id(self, modality: str) -> int:
        """Token id of the placeholder of images and videos."""
        return super().token_id("image")

    def prompt_kinds(self, ids: Tensor) -> dict[str, Tensor]:
        """Mark which tokens belong to an image."""
        return {MODALITY_KINDS: (ids == self.token_id("image")).int()}

    def picture_frame(self) -> tuple[int, ...]:
        """The special tokens before and after an image's tokens."""
        config = self.model.config
        return config.image_start_token_id, config.image_end_token_id

    def projector(self) -> Projector:
        """The merger, for rows (N, D_v)."""
        return Projector(in_float32(self.projector_module))

    def _pre_features(self, encoded: Encoded, number: int) -> Tensor:
        """Merger inputs of one image, (N, D_v)."""
        return encoded.rows_of(number, encoded.widened(encoded.projector_inputs[0]))


@tokenprune.hookimpl
def tokenprune_adapters() -> list[type[tokenprune.ModelAdapter]]:
    """Deliver the adapter."""
    return [Glm4vAdapter]
