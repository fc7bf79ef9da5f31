# SPDX-License-Identifier: Apache-2.0
"""Signals of a CLIP-like tower: what its class token attends to, its keys, its class row.

All from the layer whose output goes to the projector, as the official codes do; shapes in
`tokenprune.signals`.
"""

from __future__ import annotations

from torch import Tensor

from .capture import Encoded
from .tap import attention_probabilities


def cls_attention(encoded: Encoded, number: int) -> Tensor:
    """Attention of the class query to the patches, (H, N); with the class column it would sum to 1."""
    query, key, scaling = encoded.seen.attention[0]
    return _rows(query[number, :, :1], key[number], scaling)[:, 0, 1:]


def received_attention(encoded: Encoded, number: int) -> Tensor:
    """Attention each patch receives, mean over heads and patch queries, (N,)."""
    query, key, scaling = encoded.seen.attention[0]
    return _rows(query[number, :, 1:], key[number], scaling).mean((0, 1))[1:]


def key_metric(encoded: Encoded, number: int) -> Tensor:
    """Keys of the patches, mean over heads, (N, d_head)."""
    _, key, _ = encoded.seen.attention[0]
    return key[number].mean(0)[1:]


def _rows(query: Tensor, key: Tensor, scaling: float | None) -> Tensor:
    allowed = query.new_ones(query.shape[1], key.shape[1]).bool()
    return attention_probabilities(query, key, allowed, scaling)
