# SPDX-License-Identifier: Apache-2.0
"""Relevance of a token to the question: CDPruner's score. Zhang et al., NeurIPS 2025, arXiv 2506.10967."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune
from tokenprune.functional import unit_rows

SMALLEST = 1e-6  # what the least relevant token keeps, as in the official code
SIGNALS_OF = {"clip": ("clip_patch_embeds", "clip_text_embeds"), "language": ("text_embeds",)}


@dataclass(frozen=True)
class RelevanceScorer(tokenprune.Scorer):
    """Similarity of a token to the question, scaled to [0, 1] over the whole image.

    Parameters
    ----------
    source
        `"clip"`: minus the cosine in CLIP's joint space, as in the official code (there patches far from the
        text are the ones it describes); needs CLIP's text tower. `"language"`: the cosine of the token
        entering the language model to the embeddings of the text after the image; needs no more weights, but
        is not the paper's.
    """

    name: ClassVar[str] = "relevance"
    source: str = "clip"

    def __post_init__(self) -> None:
        if self.source not in SIGNALS_OF:
            raise tokenprune.OptionError(f"source must be 'clip' or 'language', got {self.source!r}")

    @property
    def needs(self) -> frozenset[str]:
        """The signals of the source."""
        return frozenset(SIGNALS_OF[self.source])

    def score(self, tokens: tokenprune.VisualTokens) -> Tensor:
        """Return the relevance, (N,)."""
        given = [tokens.signal(name) for name in SIGNALS_OF[self.source]]
        if self.source == "language":
            return scaled(mean_cosine(tokens.features, given[0]))
        return scaled(-mean_cosine(given[0], given[1]))


def mean_cosine(rows: Tensor, texts: Tensor) -> Tensor:
    """Mean over texts (M, C) of the cosine of each row (..., N, C) to it, (..., N); 0 without texts."""
    return (unit_rows(rows) @ unit_rows(texts).mT).sum(-1) / max(1, texts.shape[-2])


def scaled(raw: Tensor) -> Tensor:
    """(raw - min + 1e-6) / (max - min) over all that is given (the views of one image together); equal: 1."""
    low, high = raw.min(), raw.max()
    return (raw - low + SMALLEST) / (high - low) if high > low else torch.ones_like(raw)


@tokenprune.hookimpl
def tokenprune_scorers() -> list[type[tokenprune.Scorer]]:
    """Deliver the scorer."""
    return [RelevanceScorer]
