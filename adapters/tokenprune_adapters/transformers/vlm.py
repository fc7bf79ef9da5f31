# SPDX-License-Identifier: Apache-2.0
"""What differs between vision-language models of transformers; the defaults fit most of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from tokenprune import Cut, Layout, ModelAdapter, Projector, PruningReport
from tokenprune.projector import in_float32

from .capture import Encoded
from .engine import Engine


class TransformersAdapter(ModelAdapter):
    """A model of transformers 5 whose inner model scatters image features into the text embeddings."""

    modalities: ClassVar[tuple[str, ...]] = ("image",)
    pixel_arguments: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_values_videos", "mm_encoder_outputs")
    model: Any

    @property
    def inner(self) -> Any:
        """The module that scatters image features into the embeddings and calls the language model."""
        return self.model.model

    @property
    def language_model(self) -> Any:
        """The stack of decoder layers."""
        return self.inner.language_model

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
    def provides(self) -> Mapping[str, frozenset[str]]:
        """Signals by stage."""
        return {"projector": frozenset({"pre_features", "projector", "input_features", "text_embeds"})}

    def token_id(self, modality: str) -> int:
        """Placeholder token of a modality."""
        token: int = getattr(self.model.config, f"{modality}_token_id")
        return token

    def projector(self) -> Projector:
        """The projector as strategies see it; any module, without a closed form."""
        return Projector(in_float32(self.projector_module))

    def pre_features(self, encoded: Encoded, number: int) -> Tensor:
        """Rows of one image that went into the projector, (N, D_v) or (N, P, D_v), in token order."""
        raise NotImplementedError

    def layout(self, encoded: Encoded, number: int) -> Layout:
        """Where the tokens of one image lie."""
        raise NotImplementedError

    def install(self, cuts: Sequence[Cut], record: Callable[[PruningReport], None]) -> Callable[[], None]:
        """Hook the model."""
        return Engine(self, cuts, record).remove
