# SPDX-License-Identifier: Apache-2.0
"""Text tokens that resemble the image rate its tokens with their attention.

SparseVLM's score (Zhang et al., ICML 2025, arXiv 2410.04417), and that of its + variant, which corrects the
attention for the rotary embedding and trusts the heads that look at the image most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune
from tokenprune.functional import top_slots

from .attention import attention_layer


@dataclass(frozen=True)
class RaterScorer(tokenprune.Scorer):
    """Attention of the rating text tokens to the image, mean over raters and heads, in the layer just run.

    Parameters
    ----------
    undo_rotary
        Divide probabilities by what the rotary embedding alone makes of the two positions (SparseVLM+).
    n_heads
        Only the heads with the largest total (SparseVLM+: 14); None for all.
    """

    name: ClassVar[str] = "raters"
    undo_rotary: bool = False
    n_heads: int | None = None

    @property
    def needs(self) -> frozenset[str]:
        """Both sides at layer 0 and the raters' attention; positions and rotary to undo it."""
        positions = {"position_ids", "text_position_ids", "rotary"} if self.undo_rotary else set()
        return frozenset({"text_embeds", "input_features", "attention_rows"} | positions)

    def score(self, tokens: tokenprune.VisualTokens) -> Tensor:
        """Return the mean attention, (N,)."""
        rows = rater_rows(tokens.signal("text_embeds"), tokens.signal("input_features"))
        attention = tokens.signal("attention_rows")(attention_layer(tokens, -1), rows).float()  # (H, R, N)
        if self.undo_rotary:
            rotary, queries = tokens.signal("rotary"), tokens.signal("text_position_ids")  # (T,) or (3, T)
            attention = attention / rotary_envelope(
                rotary(queries[..., rows]), rotary(tokens.signal("position_ids"))
            )
        if self.n_heads is not None:
            attention = attention[top_slots(attention.sum((-1, -2)), self.n_heads)]
        scores: Tensor = attention.mean((0, 1))
        return scores


def rater_rows(text: Tensor, image: Tensor) -> Tensor:
    """Numbers (R,) of the text rows (T, D) that the image (N, D) is more than averagely similar to.

    p = mean over image rows of softmax(V T^T), raters = {t: p_t > mean p}. Where none stands out all rate;
    without text after the image the prompt's last row does.
    """
    if len(text) == 0:
        return torch.tensor([-1], device=text.device)
    share = (image.float() @ text.float().mT).softmax(-1).mean(0)
    rows = (share > share.mean()).nonzero().squeeze(-1)
    return rows if len(rows) else torch.arange(len(text), device=text.device)


def rotary_envelope(queries: tuple[Tensor, Tensor], keys: tuple[Tensor, Tensor]) -> Tensor:
    """w(q, k) = (R_q 1) . (R_k 1) / sqrt(d_head), (R, N), of cosines and sines (R, d_head), (N, d_head).

    Far apart (with heads of 128, from about 1300 tokens on) it can be negative, and so can then be a score.
    """
    turned_queries, turned_keys = (_turned_ones(cos.float(), sin.float()) for cos, sin in (queries, keys))
    envelope: Tensor = turned_queries @ turned_keys.mT / turned_keys.shape[-1] ** 0.5
    return torch.where(envelope == 0, torch.finfo(envelope.dtype).tiny, envelope)


def _turned_ones(cos: Tensor, sin: Tensor) -> Tensor:
    """Rows of ones after the rotary embedding, (P, d_head): the first half loses what the second gains."""
    first, second = (cos - sin).chunk(2, -1)[0], (cos + sin).chunk(2, -1)[1]
    return torch.cat([first, second], -1)


@tokenprune.hookimpl
def tokenprune_scorers() -> list[type[tokenprune.Scorer]]:
    """Deliver the scorer."""
    return [RaterScorer]
