# SPDX-License-Identifier: Apache-2.0
"""Random scores: the baseline that every informed method has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune


@dataclass(frozen=True)
class RandomScorer(tokenprune.Scorer):
    """Uniform random scores in [0, 1); equal for images with equal numbers of tokens, alone or in a batch.

    Parameters
    ----------
    seed
        Seed of the generator, which is created anew for each image.
    """

    name: ClassVar[str] = "random"
    seed: int = 0
    batched: ClassVar[bool] = True

    def score(self, tokens: tokenprune.VisualTokens) -> Tensor:
        """Return random scores, (N,) or (B, N)."""
        generator = torch.Generator("cpu").manual_seed(self.seed)
        scores = torch.rand(len(tokens), generator=generator, dtype=torch.float32, device="cpu")
        scores = scores.to(tokens.features.device)
        return scores.expand(tokens.features.shape[:-1])


@tokenprune.hookimpl
def tokenprune_scorers() -> list[type[tokenprune.Scorer]]:
    """Return the scorer class."""
    return [RandomScorer]


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the random baseline."""
    return [
        tokenprune.Method(
            name="random", title="random tokens", scorer="random", selector="topk", paper="baseline"
        )
    ]
