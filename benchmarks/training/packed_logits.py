# SPDX-License-Identifier: Apache-2.0
"""Compute the language model's predictions at the answers of packed questions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, LlavaForConditionalGeneration

from benchmarks.training.architecture import visual_features
from benchmarks.training.packing import N_BEFORE_IMAGE, N_PREFIX, PackedQuestions, prefix_ids

_ATTENTION = "tokenprune_packed"


def _packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend over a packed row in two parts, because the prefix never attends to text.

    query, key, value: (B, H, P + T, d); attention_mask: (B, 1, T, P + T). Implemented with plain products,
    which run in bfloat16 under autocast: the backward pass of the fused CPU kernel takes 1.5 times as long.
    """
    causal = torch.ones(N_PREFIX, N_PREFIX, dtype=torch.bool).tril()
    seen = key[:, :, :N_PREFIX], value[:, :, :N_PREFIX]
    prefix = _attend(query[:, :, :N_PREFIX] * scaling, *seen, causal)
    text = _attend(query[:, :, N_PREFIX:] * scaling, key, value, attention_mask)
    return torch.cat([prefix, text], 2).transpose(1, 2), None


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    scores = query @ key.mT
    hidden = torch.where(mask, 0.0, torch.finfo(scores.dtype).min).to(scores.dtype)
    return (scores + hidden).softmax(-1).to(scores.dtype) @ value


AttentionInterface.register(_ATTENTION, _packed_attention)


def answer_logits(
    model: LlavaForConditionalGeneration, pixels: torch.Tensor, packed: PackedQuestions
) -> torch.Tensor:
    """Return logits at every token that predicts part of an answer, (number of such tokens, vocabulary)."""
    language = model.model.language_model
    visual = model.model.multi_modal_projector(visual_features(model, pixels))
    text = language.embed_tokens(torch.cat([prefix_ids(len(pixels)), packed.ids], 1))
    usual = language.config._attn_implementation
    language.set_attn_implementation(_ATTENTION)
    try:
        hidden = language(
            inputs_embeds=torch.cat([text[:, :N_BEFORE_IMAGE], visual, text[:, N_BEFORE_IMAGE:]], 1),
            attention_mask=packed.mask,
            position_ids=packed.positions,
            use_cache=False,
        ).last_hidden_state
    finally:
        language.set_attn_implementation(usual)
    logits: torch.Tensor = model.lm_head(hidden[:, N_PREFIX:][packed.is_answer])
    return logits
