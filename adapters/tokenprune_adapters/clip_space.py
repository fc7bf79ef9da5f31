# SPDX-License-Identifier: Apache-2.0
"""CLIP's joint space of pictures and words, from a CLIP model of transformers that the user brings.

A LLaVA checkpoint holds CLIP's image tower without its last steps and without the text tower; methods that
compare patches with the question need both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune import IncompatibleError

from .authoring import output_field

# what chat templates and benchmarks put behind a question; CLIP is to read the question alone
ENDS = ("ASSISTANT:", "[/INST]", "<|im_end|>", "<|im_start|>", "\nAnswer the question using", "\nAnswer with")


def question_alone(text: str) -> str:
    """Return the text after an image up to where a chat template or an instruction on the answer begins."""
    return text[: min((at for at in map(text.find, ENDS) if at >= 0), default=len(text))].strip()


@dataclass(frozen=True, eq=False)
class ClipSpace:
    """Patches and questions in the space CLIP was trained in, of C dimensions.

    Parameters
    ----------
    clip
        The CLIPModel whose image tower the pruned model uses (LLaVA: openai/clip-vit-large-patch14-336).
    clip_tokenizer
        Its tokenizer.
    tokenizer
        The pruned model's own tokenizer, which tells the question from the prompt's token ids.
    question
        From the decoded text after the image to what CLIP reads; by default `question_alone`.
    """

    clip: Any
    clip_tokenizer: Any
    tokenizer: Any
    question: Callable[[str], str] = question_alone

    def check(self, model: nn.Module) -> None:
        """Refuse a model whose image tower is not as wide as this CLIP's.

        Raises
        ------
        IncompatibleError
            With both widths.
        """
        tower = getattr(getattr(model, "config", None), "vision_config", None)
        width, wanted = getattr(tower, "hidden_size", None), self.clip.config.vision_config.hidden_size
        if width != wanted:
            raise IncompatibleError(
                f"the CLIP model given has an image tower of width {wanted}, {type(model).__name__}'s has "
                f"{width}; give the CLIP model whose image tower this checkpoint was made from"
            )

    @torch.no_grad()
    def patches(self, rows: Tensor) -> Tensor:
        """Patch rows of the tower (N, D_v), as they go to the projector, in the joint space (N, C)."""
        tower = getattr(self.clip.vision_model, "vision_model", self.clip.vision_model)
        weight = self.clip.visual_projection.weight
        embeds: Tensor = self.clip.visual_projection(tower.post_layernorm(rows.to(weight)))
        return embeds.to(rows.device)

    @torch.no_grad()
    def texts(self, ids: Tensor) -> Tensor:
        """Token ids (T,) of the text after the image, as the model reads it, in the joint space (M, C).

        A row for each segment of as many tokens as CLIP's text tower takes, the last one filled with zeros.
        """
        text = self.question(self.tokenizer.decode(ids.tolist()))
        longest: int = self.clip.config.text_config.max_position_embeddings
        tokens = self.clip_tokenizer(text, return_tensors="pt")
        segments = {
            name: nn.functional.pad(rows[0], (0, -rows.shape[1] % longest)).view(-1, longest)
            for name, rows in tokens.items()
        }
        device = self.clip.text_projection.weight.device
        given = {name: rows.to(device) for name, rows in segments.items()}
        embeds: Tensor = output_field(self.clip.get_text_features(**given), "features")
        return embeds.to(ids.device)
