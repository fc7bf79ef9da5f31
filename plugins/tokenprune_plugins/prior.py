# SPDX-License-Identifier: Apache-2.0
"""Score visual tokens by how much more the question attends to them than a token before the question does.

The score of PriorTR (ECCV 2026, arXiv 2606.24156): S_j = P_j log(P_j / Q_j). P is the attention of the
question, Q the prior: that of the first token after the image, which does not see the question yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune

from .attention_layer import attention_layer

EPS = 1e-10  # of the official code
ROWS_AT_ONCE = 64  # rows of attention that are in memory together


@dataclass(frozen=True)
class PriorScorer(tokenprune.Scorer):
    """Terms of the divergence between the question's attention and the prior's, in the last layer run.

    Both are normalised over the image's tokens. With fewer than two text rows after the image there is no
    question to compare with the prior, and the score is the attention of the prompt's last row.

    Parameters
    ----------
    query
        `"question"`: P is the mean over the text rows after the image, the prior's row included. `"last"`: P
        is the prompt's last row.
    heads
        Combine the heads of P, and of Q, by their `"mean"` or their `"max"`.
    last_row
        Whether the last text row is among those of the question (official LLaVA code: yes; Qwen: no).
        Without it, a question of a single row falls back to `query="last"`.
    official
        Score 0 for all tokens where P and Q are the same row, as the official code does.
    """

    name: ClassVar[str] = "prior"
    query: str = "question"
    heads: str = "mean"
    last_row: bool = True
    official: bool = False

    def __post_init__(self) -> None:
        for option, allowed in (("query", ("question", "last")), ("heads", ("mean", "max"))):
            value = getattr(self, option)
            if value not in allowed:
                raise tokenprune.OptionError(
                    f"{option} must be one of {', '.join(map(repr, allowed))}, got {value!r}"
                )

    @property
    def needs(self) -> frozenset[str]:
        """Attention rows, and the text after the image, whose rows are counted."""
        return frozenset({"attention_rows", "text_embeds"})

    def score(self, tokens: tokenprune.VisualTokens) -> Tensor:
        """Return S, (N,)."""
        n_text, layer = len(tokens.signal("text_embeds")), attention_layer(tokens, -1)
        n_question = n_text if self.last_row else n_text - 1
        if n_text < 2:
            attended = self._over_heads(_rows(tokens, layer, [-1]).squeeze(1))
            return torch.zeros_like(attended) if self.official else attended
        if self.query == "last" or (n_question < 2 and not self.official):
            null, question = _rows(tokens, layer, [0, -1]).unbind(1)
        else:
            null, question = _null_and_mean(tokens, layer, n_question)
        p, q = self._over_heads(question), self._over_heads(null)
        return p * torch.log((p + EPS) / (q + EPS))

    def _over_heads(self, row: Tensor) -> Tensor:
        """Combine the heads of a row (H, N), and divide by the sum, (N,)."""
        combined = row.mean(0) if self.heads == "mean" else row.amax(0)
        return combined / (combined.sum() + EPS)


def _rows(tokens: tokenprune.VisualTokens, layer: int, rows: Tensor | list[int]) -> Tensor:
    """Attention (H, R, N) of text rows, in float32."""
    rows = torch.as_tensor(rows, device=tokens.features.device)
    attention: Tensor = tokens.signal("attention_rows")(layer, rows)
    return attention.float()


def _null_and_mean(tokens: tokenprune.VisualTokens, layer: int, n_rows: int) -> tuple[Tensor, Tensor]:
    """Text row 0 and the mean of rows 0 to `n_rows` - 1, (H, N) each; few rows are in memory at once."""
    first, *others = torch.split(torch.arange(n_rows, device=tokens.features.device), ROWS_AT_ONCE)
    attention = _rows(tokens, layer, first)
    null, total = attention[:, 0], attention.sum(1)
    for block in others:
        total += _rows(tokens, layer, block).sum(1)
    return null, total / n_rows


@tokenprune.hookimpl
def tokenprune_scorers() -> list[type[tokenprune.Scorer]]:
    """Return the scorer class."""
    return [PriorScorer]
