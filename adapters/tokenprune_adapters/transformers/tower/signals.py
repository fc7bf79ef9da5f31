# SPDX-License-Identifier: Apache-2.0
"""Signals of the tokens inside a tower, at a cut; shapes as in `tokenprune.signals`.

Attention is that of the block before the cut. A token that is made of several rows has the mean of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokenprune.functional import mean_attention
from tokenprune.towers.checks import FROM_ATTENTION, FROM_CLASS_TOKEN, PIXELS, SIZES

from ..tap import attention_probabilities
from .parts import TowerParts

OF_ROWS = frozenset({"pre_features"})


def given_by(parts: TowerParts) -> frozenset[str]:
    """Names of the signals inside this tower."""
    names = OF_ROWS | FROM_ATTENTION | FROM_CLASS_TOKEN | {PIXELS, SIZES}
    if not parts.n_prefix:
        names -= FROM_CLASS_TOKEN
    if parts.attention is None:
        names -= FROM_ATTENTION
    return names if parts.pixels else names - {PIXELS}


@dataclass
class Looked:
    """Queries (B, H, M, d) and keys (B, H_kv, M, d) of a block, a call for each segment, and its borders."""

    calls: list[tuple[Tensor, Tensor, float | None]] = field(default_factory=list)
    borders: Tensor | None = None

    def joined(self) -> tuple[Tensor, Tensor, float]:
        """All calls as one: queries, keys and scaling."""
        query = torch.cat([q for q, _, _ in self.calls], 2)
        key = torch.cat([k for _, k, _ in self.calls], 2)
        scaling = self.calls[0][2]
        return query, key, query.shape[-1] ** -0.5 if scaling is None else scaling


@dataclass
class TokensInTower:
    """The tokens of one image at a cut, of which the signals are computed on demand.

    Attributes
    ----------
    hidden
        (B, M, D) the rows that enter the block.
    places
        (N, P) the places of each token's rows within their sequence, `sequence`.
    pixels
        (N, P * values) the pixels of each token; None if they are not known.
    sizes
        (N,) the number of tokens that each stands for, after earlier merging; None if one each.
    """

    parts: TowerParts
    hidden: Tensor
    sequence: int
    places: Tensor
    looked: Looked | None = None
    pixels: Tensor | None = None
    sizes: Tensor | None = None

    def features(self) -> Tensor:
        """Rows of each token, one after the other, (N, P * D)."""
        return self.hidden[self.sequence][self.places].flatten(1)

    def signals(self) -> dict[str, Any]:
        """The signals, by name."""
        signals: dict[str, Any] = {"pre_features": self.features}
        signals[SIZES] = self._sizes if self.sizes is None else self.sizes
        if self.pixels is not None:
            signals[PIXELS] = self.pixels
        if self.parts.n_prefix:
            signals["cls_hidden"] = self.hidden[self.sequence][:1]
        if self.looked is not None:
            signals["key_metric"] = self._key_metric
            signals["received_attention"] = self._received_attention
            if self.parts.n_prefix:
                signals["cls_attention"] = self._cls_attention
        return signals

    def _sizes(self) -> Tensor:
        return torch.ones(len(self.places), device=self.places.device)

    def _joined(self) -> tuple[Tensor, Tensor, float]:
        assert self.looked is not None
        query, key, scaling = self.looked.joined()
        return query[self.sequence], key[self.sequence], scaling

    def _cls_attention(self) -> Tensor:
        """Attention of the class token to each token, (H, N)."""
        query, key, scaling = self._joined()
        allowed = torch.ones(1, key.shape[1], dtype=torch.bool, device=key.device)
        rows = attention_probabilities(query[:, :1], key, allowed, scaling)[:, 0]
        return rows[:, self.places].mean(-1)

    def _received_attention(self) -> Tensor:
        """Attention that each token receives in its segment, mean over heads and queries of patches, (N,)."""
        query, key, scaling = self._joined()
        n_prefix = self.parts.n_prefix
        assert self.looked is not None
        if self.looked.borders is None:
            received = mean_attention(query[:, n_prefix:], key, scaling)
        else:
            sizes = self.looked.borders.diff().tolist()
            pairs = zip(torch.split(query, sizes, 1), torch.split(key, sizes, 1), strict=True)
            received = torch.cat([mean_attention(q, k, scaling) for q, k in pairs])
        return received[self.places].mean(-1)

    def _key_metric(self) -> Tensor:
        """Keys of each token, mean over heads, (N, d)."""
        _, key, _ = self._joined()
        return key.mean(0)[self.places].mean(1)
