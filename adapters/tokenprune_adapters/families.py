# SPDX-License-Identifier: Apache-2.0
"""Vision-language models of the usual transformers 5 shape: a table of families and its adapter.

The inner model encodes images, puts their rows where the placeholder tokens stand, and calls a language
model. What a family lacks (the tower's attention, rows of the projector's inputs that match tokens, cuts
inside the decoder) its adapter does not provide, and methods that need it are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenprune import IncompatibleError, Layout, Projector
from tokenprune.projector import in_float32

from .transformers import forms, pictures, stock
from .transformers.encoded import Encoded, ImageSignal
from .transformers.grids import grid_of, square_of
from .transformers.vlm import TransformersAdapter


@dataclass(frozen=True)
class Family:
    """What is not the same everywhere.

    `language` names the language model's attribute; `rows` finds the row-wise part of the projector, None
    where its inputs do not match tokens one by one. `both_ways`: image tokens see each other. `video`: videos
    have features and placeholders of their own. `pieces`: what the family calls an image may be one of
    several pieces of the picture given to the processor, each with a budget of its own. `unit`: the side in
    pixels of the square a token stands for, in models that keep a picture's shape and are told its size.
    `prefix`: the prompt's tokens see each other, and an answer's are told apart from them. `rows_first`:
    pixel values have an entry for each row of the batch.
    """

    language: str = "language_model"
    rows: Callable[[Any], forms.RowWise] | None = None
    both_ways: bool = False
    video: bool = False
    pieces: bool = False
    unit: Callable[[Any], int] | None = None
    prefix: bool = False
    rows_first: bool = False


_IDEFICS = Family("text_model", lambda inner: forms.of_linear(_linear(inner)), pieces=True, rows_first=True)

FAMILIES: Mapping[str, Family] = {
    "AyaVisionForConditionalGeneration": Family(pieces=True),
    "Gemma3ForConditionalGeneration": Family(
        rows=lambda inner: forms.of_pooled_norm(inner.multi_modal_projector), both_ways=True, pieces=True
    ),
    "Idefics3ForConditionalGeneration": _IDEFICS,
    "InternVLForConditionalGeneration": Family(
        rows=lambda inner: forms.of_normed_layers(inner.multi_modal_projector), pieces=True
    ),
    "LlavaOnevisionForConditionalGeneration": Family(video=True),
    "Mistral3ForConditionalGeneration": Family(
        rows=lambda inner: forms.of_last_layers(inner.multi_modal_projector),
        unit=lambda config: config.vision_config.patch_size * config.spatial_merge_size,
    ),
    "PaliGemmaForConditionalGeneration": Family(
        rows=lambda inner: forms.of_linear(inner.multi_modal_projector.linear), both_ways=True, prefix=True
    ),
    "SmolVLMForConditionalGeneration": _IDEFICS,
}


def _linear(inner: Any) -> nn.Module:
    linear: nn.Module = inner.connector.modality_projection.proj
    return linear


class FamilyAdapter(TransformersAdapter):
    """Models of the families in a table, by the name of their class (subclasses too).

    A subclass gives `name` and `families`.
    """

    families: ClassVar[Mapping[str, Family]] = {}

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        family = self._family(model)
        assert family is not None  # `matches` was asked
        self.family = family
        self.modalities = ("image", "video") if family.video else ("image",)
        self.rows_first = family.rows_first

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        """Whether the model's class, or one it derives from, is in the table."""
        return cls._family(model) is not None

    @classmethod
    def _family(cls, model: nn.Module) -> Family | None:
        names = (base.__name__ for base in type(model).__mro__)
        return next((cls.families[name] for name in names if name in cls.families), None)

    @property
    def language_model(self) -> Any:
        """The stack of decoder layers."""
        return getattr(self.inner, self.family.language)

    @property
    def projector_module(self) -> nn.Module:
        """The module whose inputs are a row for each token."""
        return self._rows().module

    def _rows(self) -> forms.RowWise:
        assert self.family.rows is not None  # nobody asks: no signal is made of them
        return self.family.rows(self.inner)

    # -- what strategies may see

    @property
    def provides(self) -> Mapping[str, frozenset[str]]:
        """Signals by stage; no decoder stage where layers have masks of their own kinds."""
        given = dict(super().provides)
        if self.family.rows is None:
            given["projector"] -= {"projector"}
        return given

    def image_signals(self) -> Mapping[str, ImageSignal]:
        """What goes into the projector, where its rows match tokens."""
        return {} if self.family.rows is None else {"pre_features": self._pre_features}

    def _pre_features(self, encoded: Encoded, number: int) -> Tensor:
        """Rows of one image, (N, D_v)."""
        rows = encoded.seen.projector_inputs[0].flatten(0, -2)
        start = sum(encoded.lengths[:number])
        rows = rows[start : start + encoded.lengths[number]]
        return forms.centred(rows) if self._rows().centred else rows

    def projector(self) -> Projector:
        """The row-wise part of the projector, with its closed form where its weights can be read."""
        if self.family.rows is None:
            return Projector(_no_rows)  # not provided: `check` refuses what needs it
        rows = self._rows()
        return Projector(in_float32(rows.project), rows.form)

    def projector_parts(self) -> nn.Module:
        """The row-wise part; nothing where there is none."""
        return nn.Identity() if self.family.rows is None else self._rows().project

    def lengths(self, rows: Any) -> list[int]:
        """Tokens of each image; Idefics3's features come in one tensor for a row of the batch."""
        per_image = getattr(self.inner, "image_seq_len", None)
        if per_image is not None:
            return [per_image] * (sum(super().lengths(rows)) // per_image)
        return [len(each) for each in self.newlines(rows)] or super().lengths(rows)

    def newlines(self, rows: Any) -> list[Tensor]:
        """Tokens that are the model's newline, where it has one."""
        newline = getattr(self.inner, "image_newline", None)
        if newline is None:
            return []
        found = [(image == newline.to(image)).all(-1).flatten() for image in rows]
        if isinstance(rows, Tensor) and not bool(found[0][-1]):  # a video's comes later, in transformers 5.17
            found = [nn.functional.pad(each, (0, 1), value=True) for each in found]
        return found

    def layout(self, encoded: Encoded, number: int) -> Layout:
        """The picture's own grid where the model keeps its shape, else a square, else one row; newlines."""
        n = encoded.lengths[number]
        if encoded.newlines and bool(encoded.newlines[number].any()):
            return Layout((1, 1, n), newlines=encoded.newlines[number])
        if self.family.unit is not None:
            return grid_of(encoded.arguments["sizes"][number], self.family.unit(self.model.config), n)
        return square_of(n)

    def encoder_words(self, modality: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The sizes of pictures, where they say how tokens lie."""
        return ("sizes",) if self.family.unit is not None else (), ()

    # -- random inputs, and inputs run by hand

    def example_picture(self, draw: torch.Generator) -> Mapping[str, Tensor] | None:
        """As the family takes pictures: in tiles, with their size, a row of the batch at a time, or plain."""
        config = self.model.config
        if hasattr(config, "image_grid_pinpoints"):
            return pictures.tiled(draw, config)
        if self.family.unit is not None:
            return pictures.sized(draw, config, self.family.unit(config))
        plain = super().example_picture(draw)
        if plain is None or not self.rows_first:
            return plain
        return {word: pixels[None] for word, pixels in plain.items()}

    def prompt_kinds(self, ids: Tensor) -> dict[str, Tensor]:
        """Which tokens see each other, where image tokens do."""
        if not self.family.both_ways:
            return {}
        kinds = torch.zeros_like(ids) if self.family.prefix else (ids == self.token_id("image")).long()
        return {stock.BLOCK_KINDS: kinds}

    def answer_kinds(self, inputs: Mapping[str, Any], n: int) -> dict[str, Tensor]:
        """The same of a prompt and its answer, whose tokens see what came before."""
        name = stock.BLOCK_KINDS
        if name not in inputs:
            return {}
        return {name: nn.functional.pad(inputs[name], (0, n), value=int(self.family.prefix))}

    # -- what is refused

    def why_no_decoder(self) -> str:
        """Image tokens that see each other, or what every model has to say."""
        if self.family.both_ways:
            return "its image tokens see each other, and a layer's mask for fewer of them is not made yet"
        return super().why_no_decoder()


def _no_rows(rows: Tensor) -> Tensor:
    raise IncompatibleError("the projector of this model does not work row by row")
