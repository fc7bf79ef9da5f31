# SPDX-License-Identifier: Apache-2.0
"""The adapter of any vision-language model of transformers with the usual structure, whatever its class.

It is used for families that no other adapter supports, which were not tested: what can be checked when the
model is pruned is checked there (its parts, a rehearsal), the rest in each call. Structure does not tell what
the parts of a picture are (tiles, newlines), nor gives signals of the tower; families that need these have an
entry in `families.FAMILIES` or an adapter of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenprune import Cut, IncompatibleError, Layout, UnsupportedCallError, UnsupportedModelError

from . import stock
from .calls import LanguageCall
from .encoded import Encoded
from .grids import square_of
from .hints import hint_for
from .plan import RowPlan
from .structure import DifferentStructure, Structure
from .token_rows import prune_deepstack, prune_layer_inputs, prune_unknown
from .vlm import TransformersAdapter


class StructuralAdapter(TransformersAdapter):
    """Adapter for models that are recognised by their structure."""

    name: ClassVar[str] = "by-structure"
    fallback: ClassVar[bool] = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        try:
            self.structure = Structure.read(model)
        except DifferentStructure as reason:
            raise UnsupportedModelError(
                f"the adapter {self.name!r} does not fit: {reason}. Use the adapter of this model's own "
                "family, or write one: docs/writing-an-adapter.md"
            ) from reason
        self.modalities = tuple(self.structure.tokens)
        self.shares_placeholders = self.structure.shares_placeholders
        self.position_axes = self.structure.position_axes

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        """Whether the model has the usual structure, and is not a wrapper of one."""
        return not cls.why_not(model)

    @classmethod
    def why_not(cls, model: nn.Module) -> str:
        """Explain what a wrapper contains, or how the model's structure differs."""
        hint = hint_for(model)
        if hint:
            return hint
        try:
            Structure.read(model)
        except DifferentStructure as reason:
            return str(reason)
        return ""

    @property
    def inner(self) -> Any:
        """The module that scatters image features into the embeddings and calls the language model."""
        return self.structure.inner

    @property
    def language_model(self) -> Any:
        """The stack of decoder layers."""
        return self.structure.language

    def token_id(self, modality: str) -> int:
        """Token id of a modality's placeholder."""
        return self.structure.tokens[modality]

    @property
    def positions(self) -> tuple[str, ...]:
        """Original positions where they have several axes, contiguous ones with sliding windows."""
        return ("original",) if self.position_axes > 1 else super().positions

    @property
    def provides(self) -> Mapping[str, frozenset[str]]:
        """What needs no knowledge of the tower and projector."""
        signals = dict(super().provides)
        signals["projector"] -= {"projector"}
        return signals

    def why_no_decoder(self) -> str:
        """Why the decoder cannot be pruned: only families that were tested are cut there."""
        if self.adds_features:
            return "some of its layers add features to each visual token"
        untested = "its family was not tested, and is cut before the decoder only" if self.fallback else ""
        return super().why_no_decoder() or untested

    @property
    def adds_features(self) -> bool:
        """Whether decoder layers add features to visual tokens (DeepStack)."""
        return "added" in self.language_words()

    def check_model(self) -> None:
        """Refuse several position axes beside windows, which no position rule fits."""
        super().check_model()
        if self.position_axes > 1 and self.slides:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} has positions of several axes and sliding windows: windows "
                "count stored tokens, while kept tokens would keep their positions"
            )

    def check(self, cut: Cut) -> None:
        """Refuse new rows where single layers add features to each visual token."""
        super().check(cut)
        if self.adds_features and cut.method.stage == "projector" and cut.method.reducer is not None:
            raise IncompatibleError(
                f"method {cut.method.name!r} makes new rows, and this model adds features to each visual "
                "token inside its decoder: a new row has none. Choose a method that only drops tokens"
            )

    def language_words(self) -> tuple[str, ...]:
        """Known arguments of the language model with a row for each token."""
        return stock.taken_by(self.language_model, ("visual", "added", "layer_inputs"))

    def prune_arguments(self, language: LanguageCall, plan: RowPlan) -> None:
        """Prune all arguments with a row for each token; refuse tensors that are not understood."""
        prune_deepstack(language, plan)
        prune_layer_inputs(language, plan)
        prune_unknown(language, plan)

    def token_arguments(self, ids: Tensor) -> dict[str, Tensor]:
        """Zeros for the inputs of single layers, in models that have them, for rehearsals."""
        config = self.language_model.config
        width = getattr(config, stock.mark("width of the inputs of single layers"), 0)
        if not width or "layer_inputs" not in self.language_words():
            return {}
        table = stock.embedding_table(self.model).weight
        return {"layer_inputs": table.new_zeros(*ids.shape, config.num_hidden_layers, width)}

    def lengths(self, rows: Any) -> list[int]:
        """Number of tokens of each image.

        One tensor (N, D) holds images of the same length if the model has one; it says nothing of them
        otherwise, and counts as a single image.
        """
        per_image = getattr(self.inner, stock.mark("tokens of an image, if all have the same"), None)
        is_flat = isinstance(rows, Tensor) and rows.ndim == 2
        lengths = [len(rows)] if is_flat else super().lengths(rows)
        if isinstance(per_image, int) and per_image > 0 and sum(lengths) % per_image == 0:
            return [per_image] * (sum(lengths) // per_image)
        return lengths

    def check_placed(self, placed: Tensor, encoded: Encoded, number: int) -> None:
        """Refuse rows that differ from those that were encoded, in a family that was not tested.

        Rows of another width are projected after they were encoded, and cannot be compared.
        """
        if not self.fallback:
            return
        images = [encoded.rows] if isinstance(encoded.rows, Tensor) else encoded.rows
        rows = encoded.rows_of(number, torch.cat([image.flatten(0, -2) for image in images]))
        if rows.shape == placed.shape and not torch.equal(rows.to(placed), placed):
            raise UnsupportedCallError(
                "the rows of an image in the prompt are not those that it was encoded to, in their order: "
                f"how {type(self.model).__name__} places them is not known. Write an adapter for it: "
                "docs/writing-an-adapter.md"
            )

    def layout(self, encoded: Encoded, number: int) -> Layout:
        """A square if possible, else one row."""
        return square_of(encoded.lengths[number])
