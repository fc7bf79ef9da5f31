# SPDX-License-Identifier: Apache-2.0
"""Score tokens by relevance to the question, as in CDPruner. Zhang et al., NeurIPS 2025, arXiv 2506.10967."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import tokenprune
from tokenprune.functional import unit_rows

SMALLEST = 1e-6  # lowest relevance after scaling, as in the official code
SIGNALS_OF = {"clip": ("clip_patch_embeds", "clip_text_embeds"), "language": ("text_embeds",)}


@dataclass(frozen=True)
class RelevanceScorer(tokenprune.Scorer):
    """Similarity of a token to the question, scaled to [0, 1] over the whole image.

    Parameters
    ----------
    source
        `"clip"`: negative cosine in CLIP's joint space, as in the official code (in this space patches are
        far from a text that describes them); needs CLIP's text tower, see `clip`. `"language"`: cosine
        between the token entering the language model and the embeddings of the text after the image; needs no
        further weights, but is not the paper's score.
    clip
        CLIP's joint space, for models without a text tower of their own (all LLaVA models): an object with
        `patches` ((N, D_v) rows given to the projector -> (N, C)), `texts` (token ids (T,) of the text after
        the image -> (M, C)) and `check(model)`, such as `tokenprune_adapters.clip_space.ClipSpace`.
    """

    name: ClassVar[str] = "relevance"
    source: str = "clip"
    clip: Any = None

    def __post_init__(self) -> None:
        if self.source not in SIGNALS_OF:
            raise tokenprune.OptionError(f"source must be 'clip' or 'language', got {self.source!r}")
        missing = [name for name in ("patches", "texts", "check") if not hasattr(self.clip, name)]
        if self.clip is not None and (missing or self.source != "clip"):
            raise tokenprune.OptionError(
                f"clip must be an object with patches, texts and check, and requires source='clip'; got "
                f"{type(self.clip).__name__} and source={self.source!r}"
            )

    @property
    def needs(self) -> frozenset[str]:
        """Names of the signals that `source` and `clip` require."""
        return frozenset(SIGNALS_OF[self.source] if self.clip is None else ("pre_features", "text_ids"))

    def check(self, model: nn.Module) -> None:
        """Raise an error if `clip` does not match the model's vision tower."""
        if self.clip is not None:
            self.clip.check(model)

    def score(self, tokens: tokenprune.VisualTokens) -> Tensor:
        """Return the relevance, (N,)."""
        if self.clip is not None:
            patches = self.clip.patches(tokens.signal("pre_features"))
            return scaled(-mean_cosine(patches, self.clip.texts(tokens.signal("text_ids"))))
        signals = [tokens.signal(name) for name in SIGNALS_OF[self.source]]
        if self.source == "language":
            return scaled(mean_cosine(tokens.features, signals[0]))
        return scaled(-mean_cosine(signals[0], signals[1]))


def mean_cosine(rows: Tensor, texts: Tensor) -> Tensor:
    """Return the mean cosine of each row (..., N, C) to the texts (M, C), (..., N); 0 without texts."""
    return (unit_rows(rows) @ unit_rows(texts).mT).sum(-1) / max(1, texts.shape[-2])


def scaled(raw: Tensor) -> Tensor:
    """Return (raw - min + 1e-6) / (max - min), over all views of an image together; 1 if all are equal."""
    low, high = raw.min(), raw.max()
    return (raw - low + SMALLEST) / (high - low) if high > low else torch.ones_like(raw)


@tokenprune.hookimpl
def tokenprune_scorers() -> list[type[tokenprune.Scorer]]:
    """Return the scorer class."""
    return [RelevanceScorer]
