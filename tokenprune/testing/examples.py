# SPDX-License-Identifier: Apache-2.0
"""Synthetic visual tokens with every signal, the inputs of the contract checks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..projector import LinearForm
from ..signals import SIGNALS
from ..tokens import Layout, VisualTokens


def example_tokens(n: int = 24, seed: int = 0) -> VisualTokens:
    """Return the visual tokens of a synthetic image, with every signal of `tokenprune.signals`.

    They are those before decoder layer 2. The image depends on `seed`; the projector does not, as if all
    images had been encoded by one model.
    """
    draw, weights = (torch.Generator().manual_seed(s) for s in (seed, 2**31))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, device="cpu", dtype=torch.float32)

    def weight(*shape: int) -> Tensor:
        return torch.randn(shape, generator=weights, device="cpu", dtype=torch.float32) / math.sqrt(shape[-1])

    form = LinearForm(weight(32, 12), weight(32), nn.functional.gelu, weight(16, 32), weight(16))
    pre_features, query, key = normal(n, 12), normal(2, 5, 8), normal(2, n, 8)
    features, text = form(pre_features), normal(5, 16)
    signals: dict[str, Any] = {
        "pre_features": pre_features,
        "projector": form,
        "cls_attention": normal(2, n).softmax(-1),
        "key_metric": key.mean(0),
        "received_attention": normal(n).softmax(-1),
        "cls_hidden": normal(1, 12),
        "text_embeds": text,
        "text_ids": torch.arange(5),
        "input_features": features,
        "attention_rows": lambda layer, rows: (query[:, rows] @ key.mT / (1 + layer)).softmax(-1),
        "keys": lambda layer: key * (1 + layer),
        "text_keys": lambda layer: query * (1 + layer),
        "hidden": lambda layer: features * (1 + layer),
        "text_hidden": lambda layer: text * (1 + layer),
        "final_norm": lambda rows: nn.functional.rms_norm(rows, rows.shape[-1:]),
        "position_ids": torch.arange(3, 3 + n),
        "text_position_ids": torch.arange(3 + n, 8 + n),
        "rotary": rotary,
        "sizes": 1 + torch.arange(n) % 3.0,
        "clip_patch_embeds": normal(n, 8),
        "clip_text_embeds": normal(1, 8),
        "pixels": normal(3, 12)[torch.randint(0, 3, (n,), generator=draw, device="cpu")],  # with duplicates
    }
    received: Tensor = signals["received_attention"]
    signals |= {"tower_received": received.roll, "tower_depth": 4}  # another order in each block
    rows = next(h for h in range(int(n**0.5), 0, -1) if n % h == 0)
    return VisualTokens(features, signals, Layout((1, rows, n // rows)), layer=2)


def rotary(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (P, 8) of a rotary embedding of base 100."""
    angles = positions.unsqueeze(-1) * 100.0 ** -(torch.arange(0, 8, 2) / 8)
    return torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()


def all_equal(tokens: VisualTokens) -> VisualTokens:
    """Return tokens that are all equal: unit features in one direction, and the first token's signals."""
    signals: dict[str, Any] = {}
    for name in tokens.provides:
        value, axis = tokens.signal(name), getattr(SIGNALS.get(name), "token_axis", None)
        if isinstance(value, Tensor) and axis is not None:
            value = value.narrow(axis, 0, 1).expand_as(value)
        signals[name] = value
    features = torch.zeros_like(tokens.features)
    features[:, 0] = 1
    return VisualTokens(features, signals, tokens.layout, tokens.layer)
