# SPDX-License-Identifier: Apache-2.0
"""Score visual tokens by the attention of the text tokens most similar to the image (raters).

The score of SparseVLM (Zhang et al., ICML 2025, arXiv 2410.04417) and of its + variant, which corrects the
attention for the rotary embedding and uses only the heads that attend to the image most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune
from tokenprune.functional import top_slots

from .attention_layer import attention_layer


@dataclass(frozen=True)
class RaterScorer(tokenprune.Scorer):
    """Attention from the rating text tokens to the image, mean over raters and heads, in the last layer run.

    Parameters
    ----------
    undo_rotary
        Divide attention probabilities by the rotary factor of the two positions alone (SparseVLM+).
    n_heads
        Use only this many heads, those with the largest total (SparseVLM+: 14); None uses all.
    """

    name: ClassVar[str] = "raters"
    undo_rotary: bool = False
    n_heads: int | None = None

    @property
    def needs(self) -> frozenset[str]:
        """Text and image rows at layer 0 and attention rows; positions and `rotary` for `undo_rotary`."""
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
    """Return indices (R,) of the text rows (T, D) of above-average similarity to the image (N, D).

    p = mean over image rows of softmax(V T^T), raters = {t: p_t > mean p}. If no row is above the mean, all
    are raters; without text after the image, the prompt's last row is.
    """
    if len(text) == 0:
        return torch.tensor([-1], device=text.device)
    share = (image.float() @ text.float().mT).softmax(-1).mean(0)
    rows = (share > share.mean()).nonzero().squeeze(-1)
    return rows if len(rows) else torch.arange(len(text), device=text.device)


def rotary_envelope(queries: tuple[Tensor, Tensor], keys: tuple[Tensor, Tensor]) -> Tensor:
    """Return w(q, k) = (R_q 1) . (R_k 1) / sqrt(d_head), (R, N), from cosines and sines (R or N, d_head).

    At large distances (about 1300 tokens or more for heads of 128) it can be negative, and so can a score.
    """
    rotated_queries, rotated_keys = (_rotated_ones(c.float(), s.float()) for c, s in (queries, keys))
    envelope: Tensor = rotated_queries @ rotated_keys.mT / rotated_keys.shape[-1] ** 0.5
    return torch.where(envelope == 0, torch.finfo(envelope.dtype).tiny, envelope)


def _rotated_ones(cos: Tensor, sin: Tensor) -> Tensor:
    """Apply the rotary embedding to rows of ones, (P, d_head): first half cos - sin, second cos + sin."""
    first, second = (cos - sin).chunk(2, -1)[0], (cos + sin).chunk(2, -1)[1]
    return torch.cat([first, second], -1)


@tokenprune.hookimpl
def tokenprune_scorers() -> list[type[tokenprune.Scorer]]:
    """Return the scorer class."""
    return [RaterScorer]
