# SPDX-License-Identifier: Apache-2.0
"""Convert the embedded model's vision tower to a timm `VisionTransformer` with the same outputs."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from tokenprune_embedded.model import load_embedded_model
from torch import Tensor, nn

from benchmarks.training.architecture import tower_parts

_BLOCK_PARTS = {  # timm's name in a block -> CLIP's
    "norm1": ("layer_norm1",),
    "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.proj": ("self_attn.out_proj",),
    "norm2": ("layer_norm2",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}


def embedded_tower() -> nn.Module:
    """Return the embedded model's tower in evaluation mode; without a head it outputs the class token."""
    return as_timm(load_embedded_model()[0].model.vision_tower)


def as_timm(tower: Any) -> nn.Module:
    """Convert a CLIP vision tower of transformers to timm; other image sizes get interpolated positions."""
    from timm.models.vision_transformer import VisionTransformer

    config = tower.config
    model: nn.Module = VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        mlp_ratio=config.intermediate_size / config.hidden_size,
        act_layer=config.hidden_act,
        norm_layer=partial(nn.LayerNorm, eps=config.layer_norm_eps),
        pre_norm=True,
        num_classes=0,
        dynamic_img_size=True,
    )
    model.load_state_dict(_renamed(tower_parts(tower).state_dict(), config.num_hidden_layers))
    return model.eval()


def _renamed(weights: dict[str, Tensor], n_blocks: int) -> dict[str, Tensor]:
    renamed = {
        "cls_token": weights["embeddings.class_embedding"].view(1, 1, -1),
        "pos_embed": weights["embeddings.position_embedding.weight"].unsqueeze(0),
        "patch_embed.proj.weight": weights["embeddings.patch_embedding.weight"],
    }
    for kind in ("weight", "bias"):
        renamed[f"norm_pre.{kind}"] = weights[f"pre_layrnorm.{kind}"]
        renamed[f"norm.{kind}"] = weights[f"post_layernorm.{kind}"]
        for i in range(n_blocks):
            for name, parts in _BLOCK_PARTS.items():
                rows = [weights[f"encoder.layers.{i}.{part}.{kind}"] for part in parts]
                renamed[f"blocks.{i}.{name}.{kind}"] = torch.cat(rows)
    return renamed
