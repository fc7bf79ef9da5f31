# SPDX-License-Identifier: Apache-2.0
"""LLaVA-1.5 and models of its class in transformers (`LlavaForConditionalGeneration`).

Checked with transformers 5.17 and 5.23. Every image has the same number of tokens, patch by patch in
raster order, behind one token of the prompt each.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

import tokenprune
from tokenprune import Layout, Projector
from tokenprune.projector import in_float32, two_layer_form

from .transformers.capture import Encoded
from .transformers.vlm import TransformersAdapter


class LlavaAdapter(TransformersAdapter):
    """LLaVA: a tower, a two-layer projector, a decoder with one-dimensional rotary positions."""

    name: ClassVar[str] = "llava"

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        """Whether this is transformers' LlavaForConditionalGeneration (subclasses too)."""
        return any(base.__name__ == "LlavaForConditionalGeneration" for base in type(model).__mro__)

    def projector(self) -> Projector:
        """The two-layer projector, with its closed form where its weights can be read."""
        module = self.projector_module
        return Projector(
            in_float32(module),
            lambda: two_layer_form(module.linear_1, module.act, module.linear_2),  # type: ignore[arg-type]
        )

    def pre_features(self, encoded: Encoded, number: int) -> Tensor:
        """Tower rows of one image without the class token, (N, D_v)."""
        (rows,) = encoded.projector_inputs  # one call for all images, (images, N, D_v)
        return rows[number]

    def layout(self, encoded: Encoded, number: int) -> Layout:
        """A square grid where N is a square, as with every CLIP and SigLIP tower; else one row."""
        n = encoded.lengths[number]
        side = round(n**0.5)
        return Layout((1, side, side) if side * side == n else (1, 1, n))


@tokenprune.hookimpl
def tokenprune_adapters() -> list[type[tokenprune.ModelAdapter]]:
    """Deliver the adapter."""
    return [LlavaAdapter]
