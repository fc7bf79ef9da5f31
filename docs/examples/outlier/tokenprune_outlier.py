# SPDX-License-Identifier: Apache-2.0
"""Score visual tokens by their distance to the mean token of the image."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cosine_similarity

import tokenprune


@dataclass(frozen=True)
class OutlierScorer(tokenprune.Scorer):
    """Cosine distance of a token to the image's mean token."""

    name: ClassVar[str] = "outlier"

    def score(self, tokens: tokenprune.VisualTokens) -> Tensor:
        """Return 1 - cos(token, mean token), (N,)."""
        rows = tokens.features.float()  # (N, D)
        return 1 - cosine_similarity(rows, rows.mean(0, keepdim=True), dim=-1)


@tokenprune.hookimpl
def tokenprune_scorers() -> list[type[tokenprune.Scorer]]:
    """Return the scorer class."""
    return [OutlierScorer]
