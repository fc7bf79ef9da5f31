# SPDX-License-Identifier: Apache-2.0
"""Prune the visual tokens of Periscope."""

from collections.abc import Mapping
from typing import Any, ClassVar

from tokenprune_adapters.authoring import (
    Encoded,
    FamilyTower,
    ImageSignal,
    Specimen,
    TransformersAdapter,
    centred,
    clip_signals,
    in_float32,
    of_layers,
    square_of,
)
from torch import Tensor, nn

import tokenprune


def tiny_model() -> nn.Module:
    """Build the model that `tokenprune check` runs."""
    from .model import tiny_periscope  # imports transformers, which listing adapters must not

    return tiny_periscope()


class PeriscopeAdapter(TransformersAdapter):
    """Adapter for Periscope: a CLIP tower, a layer norm and two linear layers, a Llama decoder."""

    name: ClassVar[str] = "periscope"
    classes: ClassVar[tuple[str, ...]] = ("PeriscopeForConditionalGeneration",)
    # the tower, to cut inside it and to observe its blocks
    described: ClassVar[FamilyTower] = FamilyTower(
        ("clip_vision_model",), path="lens", row_wise=("coupler",), skips_first=True
    )

    @classmethod
    def specimens(cls) -> tuple[Specimen, ...]:
        """One tiny model."""
        return (Specimen("periscope", tiny_model, package="transformers"),)

    # -- where the parts are

    @property
    def inner(self) -> Any:
        """The module that replaces image tokens by the rows of patches."""
        return self.model.scope

    @property
    def language_model(self) -> Any:
        """The stack of decoder layers."""
        return self.inner.reader

    @property
    def projector_module(self) -> nn.Module:
        """The module whose inputs have one row for each token."""
        return self.inner.coupler

    @property
    def vision_tower(self) -> Any:
        """The vision tower."""
        return self.inner.lens

    def vision_attention(self) -> nn.Module:
        """The attention module of the last block, whose output is projected."""
        return self.vision_tower.encoder.layers[-1].self_attn

    # -- what strategies can read

    def layout(self, encoded: Encoded, number: int) -> tokenprune.Layout:
        """A square: one token for each patch of a square picture."""
        return square_of(encoded.lengths[number])

    def projector(self) -> tokenprune.Projector:
        """The projector, with the closed form of its layers."""
        rows = of_layers(self.projector_module)
        return tokenprune.Projector(in_float32(rows.project), rows.form)

    def image_signals(self) -> Mapping[str, ImageSignal]:
        """The projector's inputs; attention, keys and class token of the last block of the tower."""
        return {
            "pre_features": self._pre_features,
            "cls_attention": self._cls_attention,
            "received_attention": self._received_attention,
            "key_metric": self._key_metric,
            "cls_hidden": self._cls_hidden,
        }

    def _pre_features(self, encoded: Encoded, number: int) -> Tensor:
        """Rows of the patches that enter the projector, (N, D_v); its layer norm ignores their mean."""
        rows = encoded.projector_inputs[0]  # (images, N, D_v), as the projector runs once
        return centred(self._of_image(encoded, number, rows[number : number + 1]))

    def _cls_attention(self, encoded: Encoded, number: int) -> Tensor:
        """Attention of the class token to each patch, (H, N)."""
        heads_last = clip_signals.cls_attention(encoded, self.tiles(encoded, number)).mT
        return self._of_image(encoded, number, heads_last).mT

    def _received_attention(self, encoded: Encoded, number: int) -> Tensor:
        """Attention that each patch receives from the patches, (N,)."""
        received = clip_signals.received_attention(encoded, self.tiles(encoded, number))
        return self._of_image(encoded, number, received)

    def _key_metric(self, encoded: Encoded, number: int) -> Tensor:
        """Keys of the patches, mean over heads, (N, d)."""
        return self._of_image(encoded, number, clip_signals.key_metric(encoded, self.tiles(encoded, number)))

    def _cls_hidden(self, encoded: Encoded, number: int) -> Tensor:
        """The class token's row, (1, D_v)."""
        return encoded.seen.tower_outputs[0][number : number + 1]

    def class_rows(self, output: Any) -> Tensor:
        """Copy the class tokens' rows from the tower's output, (images, D_v)."""
        return output.last_hidden_state[:, 0].detach().clone()

    def _of_image(self, encoded: Encoded, number: int, rows: Tensor) -> Tensor:
        """Rows of the tokens of an image (N, ...), from those that left the tower (1, K, ...)."""
        return encoded.widened(rows, self.tiles(encoded, number))[0]


@tokenprune.hookimpl
def tokenprune_adapters() -> list[type[tokenprune.ModelAdapter]]:
    """Return the adapter class."""
    return [PeriscopeAdapter]
