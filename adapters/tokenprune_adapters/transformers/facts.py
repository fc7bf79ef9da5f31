# SPDX-License-Identifier: Apache-2.0
"""Facts about a vision-language model of transformers: where its parts are; the defaults fit most of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune import IncompatibleError, Layout, ModelAdapter, Projector, UnsupportedModelError
from tokenprune.projector import in_float32, weights_mark

from . import pictures, stock
from .calls import LanguageCall
from .encoded import Encoded, ImageSignal
from .plan import RowPlan
from .resolved import Signatures
from .signature import Signature


class VisionLanguageFacts(ModelAdapter):
    """A model of transformers 5 whose inner model scatters image features into the text embeddings."""

    modalities: tuple[str, ...] = ("image",)
    position_axes = 1  # of its rotary embedding: 3 where positions have a frame, a line and a column
    rows_first = False  # whether pixel values have an entry for each row of the batch, not for each image
    model: Any
    _projector: tuple[Any, Projector] | None = None

    # -- where things are

    @property
    def inner(self) -> Any:
        """The module that scatters image features into the embeddings and calls the language model."""
        return self.model.model

    @property
    def language_model(self) -> Any:
        """The stack of decoder layers."""
        return self.inner.language_model

    @property
    def layers(self) -> Any:
        """The decoder layers."""
        return self.language_model.layers

    @property
    def rotary(self) -> Any:
        """The language model's rotary embedding."""
        return self.language_model.rotary_emb

    @property
    def projector_module(self) -> nn.Module:
        """The module between tower and language model."""
        module: nn.Module = self.inner.multi_modal_projector
        return module

    @property
    def vision_tower(self) -> Any:
        """The vision tower."""
        return self.inner.vision_tower

    def vision_attention(self) -> nn.Module | None:
        """The attention module of the tower layer the features come from; None: its attention is not seen."""
        return None

    def attention(self, layer: int) -> Any:
        """The attention module of a decoder layer; None where it is not found."""
        return getattr(self.layers[layer], "self_attn", None)

    def class_rows(self, output: Any) -> Tensor:
        """The class token's rows (images, D_v) in the tower's output, for the signal `cls_hidden`.

        Rows of their own: the output, which may be what the encoder returns, is not to be kept alive by them.
        """
        raise NotImplementedError

    def token_id(self, modality: str) -> int:
        """Placeholder token of a modality."""
        return stock.token_id(self.model.config, modality)

    @property
    def slides(self) -> bool:
        """Whether some decoder layers see only a window of what came before."""
        return stock.SLIDING in stock.layer_kinds(self.language_model.config)

    @property
    def positions(self) -> tuple[str, ...]:
        """Both rules; only contiguous where layers slide: their windows count what is stored."""
        return ("contiguous",) if self.slides else ("contiguous", "original")

    def lengths(self, rows: Any) -> list[int]:
        """Tokens of each image, from what `get_image_features` gives for the language model."""
        return [image.shape[:-1].numel() for image in rows]

    def newlines(self, rows: Any) -> list[Tensor]:
        """Which tokens of each image are separators, (N,) bool each; empty where known otherwise."""
        return []

    def encoder_words(self, modality: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Arguments of the encoder that are read, by words of `stock.ARGUMENTS`; and those it may lack."""
        return (), ()

    def language_words(self) -> tuple[str, ...]:
        """Arguments of the language model, beside the usual ones, that `prune_arguments` cuts."""
        return ()

    def prune_arguments(self, language: LanguageCall, plan: RowPlan) -> None:
        """Cut whatever else the language model is passed for each token."""

    # -- random inputs, and inputs run by hand (`promises`)

    def example_picture(self, draw: torch.Generator) -> Mapping[str, Tensor] | None:
        """Inputs for one random picture by words of `stock.ARGUMENTS`; None: this adapter makes none.

        By default pixels (1, 3, H, W) of the tower's own size.
        """
        side = pictures.side_of(self.model.config)
        return None if side is None else {"images": pictures.noise(draw, 1, 3, *side)}

    def picture_frame(self) -> tuple[int, ...]:
        """The tokens before and after an image's; nothing where there need be none."""
        return ()

    def prompt_kinds(self, ids: Tensor) -> dict[str, Tensor]:
        """Further inputs with an entry for each token (1, L), by their names."""
        return {}

    def answer_kinds(self, inputs: Mapping[str, Any], n: int) -> dict[str, Tensor]:
        """Those of a prompt and an answer of n tokens, (1, L + n), that the inner model reads."""
        return {}

    # -- what strategies may see

    def image_signals(self) -> Mapping[str, ImageSignal]:
        """Signals of the vision side: name -> function of what was encoded and the image's number."""
        return {}

    def projector(self) -> Projector:
        """The projector as strategies see it; any module, without a closed form."""
        return Projector(in_float32(self.projector_module))

    def projector_parts(self) -> nn.Module:
        """The module all of whose weights `projector` depends on."""
        return self.projector_module

    def current_projector(self) -> Projector:
        """The projector, made once and anew whenever its weights have changed."""
        mark = weights_mark(self.projector_parts())
        if self._projector is None or self._projector[0] != mark:
            self._projector = mark, self.projector()
        return self._projector[1]

    def check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Refuse a call's arguments that change what is encoded; nothing by default."""

    def layout(self, encoded: Encoded, number: int) -> Layout:
        """Where the tokens of one image lie."""
        raise NotImplementedError

    def final_norm(self, rows: Tensor) -> Tensor:
        """The language model's last norm."""
        normed: Tensor = self.language_model.norm(rows)
        return normed

    def rotate(self, hidden: Tensor, positions: Tensor) -> Any:
        """Rotary cosines and sines (B, P, d) at other positions than the model was called with."""
        return self.rotary.forward(hidden, positions)  # past our own hook

    # -- looking it all up

    def check_parts(self) -> None:
        """Refuse a model whose parts are not where this adapter looks for them.

        Raises
        ------
        UnsupportedModelError
            Naming what is missing.
        """
        try:
            parts = (self.inner, self.language_model, self.layers, self.rotary)
        except AttributeError as error:
            raise UnsupportedModelError(
                f"the adapter {self.name!r} does not fit {type(self.model).__name__}: {error}. Use the "
                "adapter of this model's own family, or write one: docs/writing-an-adapter.md"
            ) from error
        for part in parts:
            if not isinstance(part, nn.Module):
                raise UnsupportedModelError(
                    f"the adapter {self.name!r} does not fit {type(self.model).__name__}: where a module "
                    f"should be it has {type(part).__name__}"
                )

    def signatures(self, cuts_layers: bool) -> Signatures:
        """The signatures of the functions the engine stands in front of."""
        return Signatures.resolve(
            self.model,
            self.inner,
            self.language_model,
            self.rotary,
            list(self.layers) if cuts_layers else [],
            self.modalities,
            self.language_words(),
        )

    def attention_signature(self, layer: int) -> Signature:
        """The signature of a decoder layer's attention module."""
        return Signature.of_forward(self.attention(layer), ("hidden", "rotated", "mask"))

    def norm_before_attention(self, layer: int, hidden: Tensor) -> Tensor:
        """What a decoder layer's attention gets of its rows (B, P, D)."""
        module = self.layers[layer]
        if not hasattr(module, "input_layernorm"):
            raise IncompatibleError(
                f"{type(module).__name__} has no norm before its attention, which a method that looks at the "
                "attention of the layer it cuts before would need; choose one that looks at the layer before"
            )
        normed: Tensor = module.input_layernorm(hidden)
        return normed
