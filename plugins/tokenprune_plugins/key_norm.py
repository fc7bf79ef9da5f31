# SPDX-License-Identifier: Apache-2.0
"""Score tokens by the norm of their keys, as DART does to select pivots.

Wen et al., EMNLP 2025, arXiv 2502.11494.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

import tokenprune

from .attention_layer import attention_layer


@dataclass(frozen=True)
class KeyNormScorer(tokenprune.Scorer):
    """L1 norm of a token's keys, over all heads, in the last layer run before the cut."""

    name: ClassVar[str] = "key-norm"

    @property
    def needs(self) -> frozenset[str]:
        """Keys of the image tokens."""
        return frozenset({"keys"})

    def score(self, tokens: tokenprune.VisualTokens) -> Tensor:
        """Return the norms, (N,)."""
        return key_norm(tokens.signal("keys")(attention_layer(tokens, -1)))


def key_norm(keys: Tensor) -> Tensor:
    """Return L1 norms (N,) of keys (H, N, d_head), over heads and coordinates."""
    return keys.float().abs().sum((-3, -1))


@tokenprune.hookimpl
def tokenprune_scorers() -> list[type[tokenprune.Scorer]]:
    """Return the scorer class."""
    return [KeyNormScorer]
