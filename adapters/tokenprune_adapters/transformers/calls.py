# SPDX-License-Identifier: Apache-2.0
"""Calls of the modules that the engine hooks, with their arguments under our names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from . import stock
from .signature import View


@dataclass
class OuterCall(View):
    """A call of the whole model: labels (B, L), `stock.NO_ANSWER` for tokens that are not predicted."""

    answers: Tensor | None = None
    words: ClassVar[tuple[str, ...]] = ("answers",)


@dataclass
class ModelCall(View):
    """A call of the inner model: token ids or embeddings, and pixels or encoded images."""

    ids: Tensor | None = None
    embeds: Tensor | None = None
    mask: Any = None
    kv: Any = None
    images: Tensor | None = None
    videos: Tensor | None = None
    encoded: Any = None
    words: ClassVar[tuple[str, ...]] = ("ids", "embeds", "mask", "kv", "images", "videos", "encoded")

    @property
    def brings_images(self) -> bool:
        """Whether the call has pixels or encoded images."""
        outputs = self.encoded.values() if isinstance(self.encoded, dict) else (self.encoded,)
        return any(argument is not None for argument in (self.images, self.videos, *outputs))

    def brings(self, modality: str) -> bool:
        """Whether the call has pixels or encodings of a modality."""
        pixels = getattr(self, stock.pixel_word(modality))
        encodings = self.encoded if isinstance(self.encoded, dict) else {}
        return pixels is not None or encodings.get(modality) is not None


@dataclass
class LanguageCall(View):
    """A call of the language model: embeddings (B, L, D), mask, positions, cache."""

    embeds: Tensor | None = None
    mask: Any = None
    positions: Tensor | None = None
    kv: Any = None
    caching: bool | None = None
    visual: Tensor | None = None
    added: Any = None
    layer_inputs: Tensor | None = None
    words: ClassVar[tuple[str, ...]] = (
        "embeds", "mask", "positions", "kv", "caching", "visual", "added", "layer_inputs",
    )  # fmt: skip


@dataclass
class LayerCall(View):
    """A call of a decoder layer: hidden rows (B, P, D), mask, positions, rotary cosines and sines."""

    hidden: Tensor
    mask: Any = None
    positions: Tensor | None = None
    rotated: Any = None
    words: ClassVar[tuple[str, ...]] = ("hidden", "mask", "positions", "rotated")


@dataclass
class RotaryCall(View):
    """A call of the rotary embedding: a tensor that gives dtype and device, and positions."""

    like: Tensor
    positions: Tensor
    words: ClassVar[tuple[str, ...]] = ("like", "positions")


@dataclass
class BlockCall(View):
    """A call of a block of a vision tower: hidden rows (B, M, D) or (M, D), mask, cosines and sines.

    `segments` are the borders of the frames or windows whose rows attend to each other, `longest` is the
    length of the longest; `positions` (M, axes) or (B, M, axes) are those of patches.
    """

    hidden: Tensor
    mask: Any = None
    rotated: Any = None
    segments: Tensor | None = None
    longest: Any = None
    positions: Tensor | None = None
    words: ClassVar[tuple[str, ...]] = ("hidden", "mask", "rotated", "segments", "longest", "positions")
