# SPDX-License-Identifier: Apache-2.0
"""Signals of a CLIP-like tower: what its class token attends to, its keys, what each patch receives.

All from the layer whose output goes to the projector, as the official codes do. Each takes what an encoding
saw and the tower images (tiles) meant; shapes in `tokenprune.signals`, with a leading axis of tiles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .encoded import Encoded
from .tap import attention_probabilities


def cls_attention(encoded: Encoded, tiles: range) -> Tensor:
    """Attention of the class query to the patches, (tiles, H, N); with the class column it would sum to 1."""
    query, key, scaling = encoded.seen.attention[0]
    return torch.stack([_rows(query[i, :, :1], key[i], scaling)[:, 0, 1:] for i in tiles])


def received_attention(encoded: Encoded, tiles: range) -> Tensor:
    """Attention each patch receives, mean over heads and patch queries, (tiles, N)."""
    query, key, scaling = encoded.seen.attention[0]
    return torch.stack([_rows(query[i, :, 1:], key[i], scaling).mean((0, 1))[1:] for i in tiles])


def key_metric(encoded: Encoded, tiles: range) -> Tensor:
    """Keys of the patches, mean over heads, (tiles, N, d_head)."""
    _, key, _ = encoded.seen.attention[0]
    return key[tiles.start : tiles.stop].mean(1)[:, 1:]


def _rows(query: Tensor, key: Tensor, scaling: float | None) -> Tensor:
    allowed = torch.ones(query.shape[1], key.shape[1], dtype=torch.bool, device=query.device)
    return attention_probabilities(query, key, allowed, scaling)
