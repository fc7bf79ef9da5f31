# SPDX-License-Identifier: Apache-2.0
"""Where the parts of a vision-language model of transformers are, with defaults that fit most models."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune import IncompatibleError, Layout, ModelAdapter, Projector, UnsupportedModelError
from tokenprune.projector import in_float32, weights_mark
from tokenprune.towers.image import TowerImage

from . import pictures, receipts, stock
from .calls import LanguageCall
from .encoded import Encoded, ImageSignal
from .plan import RowPlan
from .refusals import refuse_other_rows
from .resolved import Signatures
from .signature import Signature
from .tower.described import FamilyTower
from .tower.parts import TowerParts
from .tower.squares import square_images

UNTESTED_TOWER = "this family's tower was not tested with cuts inside it"


class VisionLanguageFacts(ModelAdapter):
    """Base class for models of transformers 5 that scatter image features into the text embeddings."""

    modalities: tuple[str, ...] = ("image",)
    position_axes = 1  # of the rotary embedding; 3 if positions have a frame, a row and a column
    shares_placeholders = False  # whether images and videos stand on the same placeholder token
    rows_first = False  # whether pixel values have an entry per row of the batch instead of per image
    model: Any
    _projector: tuple[Any, Projector] | None = None

    # -- where the parts are

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
        """The projector between tower and language model."""
        module: nn.Module = self.inner.multi_modal_projector
        return module

    @property
    def vision_tower(self) -> Any:
        """The vision tower."""
        return self.inner.vision_tower

    def vision_attention(self) -> nn.Module | None:
        """Attention module of the tower layer that features come from; None if it cannot be observed."""
        return None

    @property
    def described(self) -> FamilyTower | None:
        """A description of the vision tower, if it is of a known kind."""
        return None

    def tower(self) -> TowerParts | None:
        """The parts of the vision tower, if tokens can be cut inside it; None if they cannot."""
        return None if self.described is None else self.described.parts(self.inner, self.model.config)

    def why_no_tower(self) -> str:
        """Why tokens cannot be cut inside the vision tower; empty if they can."""
        if self.described is not None:
            return self.described.why_not(self.inner, self.model.config)
        return "" if self.tower() is not None else UNTESTED_TOWER

    @functools.cached_property
    def tower_depth(self) -> int:
        """Blocks of the tower up to the last that is projected; 0 if their attention cannot be observed."""
        parts = self.tower()
        return 0 if parts is None or parts.attention is None else parts.n_projected

    def tower_images(self, arguments: Mapping[str, Any], shape: tuple[int, int]) -> list[TowerImage]:
        """The images in one run of the tower over (B, M) rows, from the encoder's arguments.

        Without a description of the tower, one image in each sequence of a batch, a token for each patch.
        """
        if self.described is not None:
            return self.described.images(self.inner, self.model.config, arguments, shape)
        parts = self.tower()
        assert parts is not None
        return square_images(shape, parts.n_prefix)

    def tiles(self, encoded: Encoded, number: int) -> range:
        """Indices of the tower images that belong to an image of the prompt."""
        return range(number, number + 1)

    def token_rows(self, encoded: Encoded, number: int, rows: Tensor) -> Tensor:
        """Rearrange the rows of an image's tower images (tiles, N, ...) into its tokens (N, ...)."""
        return rows[0]

    def pixels_of(self, pixels: Tensor, rows: Tensor) -> Tensor:
        """Pixels (N, P * values) of the tokens made of the tower's rows (N, P), from those of all images."""
        raise NotImplementedError

    def survivors_of(self, encoded: Encoded, number: int) -> tuple[Tensor, dict[int, int]]:
        """The tokens (K,) of an image that left the tower, and how many were left before each cut block."""
        outcome = encoded.seen.tower
        assert outcome is not None
        n, tokens = encoded.lengths[number], outcome.tokens[number]
        images, shown = outcome.images, outcome.images[number].shown
        in_prompt = len(images[number].rows) if shown is None else int(shown.sum())
        if len(images) != len(encoded.lengths) or in_prompt != n:
            raise receipts.broken(
                f"image {number} of {len(images)} has {in_prompt} tokens in the vision tower, and image "
                f"{number} of {len(encoded.lengths)} has {n} in the prompt"
            )
        return tokens[tokens < n], outcome.left[number]

    def attention(self, layer: int) -> Any:
        """The attention module of a decoder layer; None if it is not found."""
        return getattr(self.layers[layer], "self_attn", None)

    def class_rows(self, output: Any) -> Tensor:
        """Copy the class token's rows (images, D_v) from the tower's output, for the signal `cls_hidden`.

        A copy, so that it does not keep the output alive, which may be what the encoder returns.
        """
        raise NotImplementedError

    def token_id(self, modality: str) -> int:
        """Token id of a modality's placeholder."""
        return stock.token_id(self.model.config, modality)

    @property
    def slides(self) -> bool:
        """Whether some decoder layers use sliding windows, or chunks."""
        return bool(set(stock.layer_kinds(self.language_model.config)) & set(stock.WINDOWED))

    @property
    def chunked(self) -> bool:
        """Whether some decoder layers attend within chunks, counted from the first token."""
        return stock.CHUNKED in stock.layer_kinds(self.language_model.config)

    @property
    def carries_state(self) -> bool:
        """Whether some decoder layers carry a state from token to token: linear attention, convolutions."""
        return bool(set(stock.layer_kinds(self.language_model.config)) & set(stock.STATES))

    @property
    def positions(self) -> tuple[str, ...]:
        """Supported position rules; only contiguous with sliding windows, which count stored tokens."""
        return ("contiguous",) if self.slides else ("contiguous", "original")

    def lengths(self, rows: Any) -> list[int]:
        """Number of tokens of each image, from the rows that `get_image_features` returns."""
        return [image.shape[:-1].numel() for image in rows]

    def newlines(self, rows: Any) -> list[Tensor]:
        """Masks of the separator tokens of each image, (N,) bool each; empty if the layout knows them."""
        return []

    def encoder_words(self, modality: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Encoder arguments to read, by keys of `stock.ARGUMENTS`: required ones, then optional ones."""
        return (), ()

    def language_words(self) -> tuple[str, ...]:
        """Additional arguments of the language model that `prune_arguments` prunes."""
        return ()

    def token_arguments(self, ids: Tensor) -> dict[str, Tensor]:
        """Additional arguments of the language model for text tokens (B, L), by keys of `stock.ARGUMENTS`."""
        return {}

    def prune_arguments(self, language: LanguageCall, plan: RowPlan) -> None:
        """Prune the additional per-token arguments of the language model in place."""

    # -- random inputs, and inputs of reference runs (`promises`)

    def example_picture(self, draw: torch.Generator) -> Mapping[str, Tensor] | None:
        """Inputs of one random picture by keys of `stock.ARGUMENTS`; None if this adapter makes none.

        By default pixels (1, 3, H, W) of the tower's image size.
        """
        side = pictures.side_of(self.model.config)
        return None if side is None else {"images": pictures.noise(draw, 1, 3, *side)}

    def picture_frame(self) -> tuple[int, ...]:
        """The special tokens before and after an image's tokens; empty if there are none."""
        return ()

    def prompt_kinds(self, ids: Tensor) -> dict[str, Tensor]:
        """Additional inputs with an entry for each token (1, L), by name."""
        return {}

    def answer_kinds(self, inputs: Mapping[str, Any], n: int) -> dict[str, Tensor]:
        """The same for a prompt and an answer of n tokens, (1, L + n), if the inner model reads them."""
        return {}

    # -- what strategies can read

    def image_signals(self) -> Mapping[str, ImageSignal]:
        """Signals of the vision side: name -> function of the encoding and the image's index."""
        return {}

    def projector(self) -> Projector:
        """The projector as strategies read it; by default any module, without a closed form."""
        return Projector(in_float32(self.projector_module))

    def projector_parts(self) -> nn.Module:
        """The module that holds all weights of `projector`."""
        return self.projector_module

    def current_projector(self) -> Projector:
        """Return the projector, cached until its weights change."""
        mark = weights_mark(self.projector_parts())
        if self._projector is None or self._projector[0] != mark:
            self._projector = mark, self.projector()
        return self._projector[1]

    def check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Refuse arguments that change what is encoded; by default, those that project other rows."""
        refuse_other_rows(arguments, self.model.config)

    def check_placed(self, placed: Tensor, encoded: Encoded, number: int) -> None:
        """Check that the rows of an image in the prompt (N, D) are those that were encoded.

        By default nothing is checked: in a family that was tested they are.
        """

    def layout(self, encoded: Encoded, number: int) -> Layout:
        """Layout of one image's tokens."""
        raise NotImplementedError

    @property
    def has_final_norm(self) -> bool:
        """Whether the language model's final norm was found."""
        return isinstance(getattr(self.language_model, "norm", None), nn.Module)

    def final_norm(self, rows: Tensor) -> Tensor:
        """Apply the language model's final norm."""
        normed: Tensor = self.language_model.norm(rows)
        return normed

    def rotate(self, hidden: Tensor, positions: Tensor) -> Any:
        """Compute rotary cosines and sines (B, P, d) at the given positions."""
        return self.rotary.forward(hidden, positions)  # bypasses our hook

    # -- lookups

    def check_parts(self) -> None:
        """Check that the model has the parts that this adapter expects.

        Raises
        ------
        UnsupportedModelError
            If a part is missing, with its name.
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
                    f"the adapter {self.name!r} does not fit {type(self.model).__name__}: it has a "
                    f"{type(part).__name__} in place of a module"
                )

    def signatures(self, cuts_layers: bool) -> Signatures:
        """The signatures of the functions that the engine hooks."""
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
        """Apply the norm before a decoder layer's attention to its input rows (B, P, D)."""
        module = self.layers[layer]
        if not hasattr(module, "input_layernorm"):
            raise IncompatibleError(
                f"{type(module).__name__} has no norm before its attention, which a method that reads the "
                "attention of the layer after the cut needs; choose one that reads the layer before the cut"
            )
        normed: Tensor = module.input_layernorm(hidden)
        return normed
