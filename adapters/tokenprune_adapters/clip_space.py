# SPDX-License-Identifier: Apache-2.0
"""CLIP's joint embedding space of images and text, from a CLIP model that the user supplies.

A LLaVA checkpoint holds CLIP's image tower without its final norm and projection, and no text tower; methods
that compare patches with the question need both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune import IncompatibleError, UnsupportedModelError

from .authoring import config_value, output_field

# what chat templates and benchmarks append to a question; CLIP should read only the question
ENDS = ("ASSISTANT:", "[/INST]", "<|im_end|>", "<|im_start|>", "\nAnswer the question using", "\nAnswer with")


def question_alone(text: str) -> str:
    """Cut the text after an image where a chat template or an instruction about the answer begins."""
    return text[: min((start for start in map(text.find, ENDS) if start >= 0), default=len(text))].strip()


@dataclass(frozen=True, eq=False)
class ClipSpace:
    """Maps patches and questions into CLIP's joint embedding space of C dimensions.

    Parameters
    ----------
    clip
        The CLIPModel whose image tower the pruned model uses (LLaVA: openai/clip-vit-large-patch14-336).
    clip_tokenizer
        Its tokenizer.
    tokenizer
        The pruned model's own tokenizer, which decodes the question from the prompt's token ids.
    question
        Maps the decoded text after the image to the text that CLIP reads; by default `question_alone`.
    """

    clip: Any
    clip_tokenizer: Any
    tokenizer: Any
    question: Callable[[str], str] = question_alone

    def check(self, model: nn.Module) -> None:
        """Refuse a model whose image tower has another width than this CLIP's, or is read at several layers.

        Raises
        ------
        IncompatibleError
            If the widths differ, or the projector receives rows of several layers side by side.
        """
        tower = getattr(getattr(model, "config", None), "vision_config", None)
        width, wanted = getattr(tower, "hidden_size", None), self.clip.config.vision_config.hidden_size
        if width != wanted:
            raise IncompatibleError(
                f"the CLIP model given has an image tower of width {wanted}, {type(model).__name__}'s has "
                f"{width}; give the CLIP model whose image tower this checkpoint was made from"
            )
        layers = _feature_layers(getattr(model, "config", None))
        if isinstance(layers, (list, tuple)) and len(layers) > 1:
            raise IncompatibleError(
                f"the projector of {type(model).__name__} receives rows of the tower's layers "
                f"{', '.join(map(str, layers))} side by side, and CLIP's joint space has no projection of "
                "those; choose another method"
            )

    @torch.no_grad()
    def patches(self, rows: Tensor) -> Tensor:
        """Map the tower's patch rows (N, D_v), as the projector receives them, to the joint space (N, C)."""
        tower = getattr(self.clip.vision_model, "vision_model", self.clip.vision_model)
        weight = self.clip.visual_projection.weight
        embeds: Tensor = self.clip.visual_projection(tower.post_layernorm(rows.to(weight)))
        return embeds.to(rows.device)

    @torch.no_grad()
    def texts(self, ids: Tensor) -> Tensor:
        """Map the token ids (T,) of the text after the image to the joint space (M, C).

        Each row embeds a segment as long as CLIP's text tower accepts; the last segment is zero-padded.
        """
        text = self.question(self.tokenizer.decode(ids.tolist()))
        longest: int = self.clip.config.text_config.max_position_embeddings
        tokens = self.clip_tokenizer(text, return_tensors="pt")
        segments = {
            name: nn.functional.pad(rows[0], (0, -rows.shape[1] % longest)).view(-1, longest)
            for name, rows in tokens.items()
        }
        device = self.clip.text_projection.weight.device
        inputs = {name: rows.to(device) for name, rows in segments.items()}
        embeds: Tensor = output_field(self.clip.get_text_features(**inputs), "features")
        return embeds.to(ids.device)


def _feature_layers(config: Any) -> Any:
    """The tower layers that features come from, as configured; None if the model has no such setting."""
    try:
        return config_value(config, "feature_layer")
    except UnsupportedModelError:
        return None
