# SPDX-License-Identifier: Apache-2.0
"""Signals of a CLIP-like tower: the class token's attention, the keys, and the attention patches receive.

All are computed from the layer whose output goes to the projector, as in the official code. The functions
take an encoding and the indices of its tower images (tiles); shapes as in `tokenprune.signals`, with a
leading tile axis.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .encoded import Encoded
from .tap import attention_probabilities


def cls_attention(encoded: Encoded, tiles: range) -> Tensor:
    """Attention of the class token to the patches, (tiles, H, N); sums to 1 with the class column."""
    query, key, scaling = encoded.seen.attention[0]
    return torch.stack([_rows(query[i, :, :1], key[i], scaling)[:, 0, 1:] for i in tiles])


def received_attention(encoded: Encoded, tiles: range) -> Tensor:
    """Attention that each patch receives, averaged over heads and patch queries, (tiles, N)."""
    query, key, scaling = encoded.seen.attention[0]
    return torch.stack([_rows(query[i, :, 1:], key[i], scaling).mean((0, 1))[1:] for i in tiles])


def key_metric(encoded: Encoded, tiles: range) -> Tensor:
    """Keys of the patches, averaged over heads, (tiles, N, d_head)."""
    _, key, _ = encoded.seen.attention[0]
    return key[tiles.start : tiles.stop].mean(1)[:, 1:]


def _rows(query: Tensor, key: Tensor, scaling: float | None) -> Tensor:
    allowed = torch.ones(query.shape[1], key.shape[1], dtype=torch.bool, device=query.device)
    return attention_probabilities(query, key, allowed, scaling)
