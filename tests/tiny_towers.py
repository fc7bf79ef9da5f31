# SPDX-License-Identifier: Apache-2.0
"""Tiny vision transformers of timm and open_clip, weights drawn here, nothing downloaded."""

import functools

import open_clip
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

SIDE, N = 48, 36  # 6 x 6 patches of 8 pixels
SMALL = {"img_size": SIDE, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 4, "num_classes": 7}
ROTARY = {"use_rot_pos_emb": True, "use_abs_pos_emb": False}
SIGLIP = {"class_token": False, "global_pool": "map"}
DINOV3 = {"rope_type": "dinov3", "num_reg_tokens": 4, "rope_rotate_half": True, "attn_type": "rope"}
GROUPED = {"attn_type": "rope", "qkv_fused": False, "num_kv_heads": 2}

TIMM = {
    "vit": lambda: VisionTransformer(**SMALL),
    "vit qk-norm": lambda: VisionTransformer(**SMALL, qk_norm=True, fc_norm=True, final_norm=True),
    "vit average": lambda: VisionTransformer(**SMALL, global_pool="avg", class_token=False),
    "vit average and maximum": lambda: VisionTransformer(**SMALL, global_pool="avgmax"),
    "vit unpooled": lambda: VisionTransformer(**SMALL, global_pool=""),
    "vit refined": lambda: VisionTransformer(**SMALL, global_pool="prr"),
    "deit distilled": lambda: VisionTransformerDistilled(**SMALL),
    "dinov2 registers": lambda: VisionTransformer(
        **SMALL | {"num_classes": 0},
        reg_tokens=4,
        no_embed_class=True,
        init_values=0.5,
        dynamic_img_size=True,
    ),
    "siglip": lambda: VisionTransformer(**SMALL, **SIGLIP),
    "eva absolute": lambda: Eva(**SMALL),
    "eva02 rotary": lambda: Eva(**SMALL, use_rot_pos_emb=True, swiglu_mlp=True, scale_mlp=True),
    "eva rotary a block": lambda: Eva(**SMALL, **ROTARY, rope_type="mixed"),
    "eva post-norm": lambda: Eva(**SMALL, **ROTARY, use_post_norm=True),
    "dinov3": lambda: Eva(**SMALL, **ROTARY, **DINOV3, global_pool="token", init_values=0.5),
    "eva grouped": lambda: Eva(**SMALL, **ROTARY, **GROUPED),
}

TEXT = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
VISION = {"image_size": SIDE, "patch_size": 8, "width": 32, "head_width": 8, "layers": 4}
TESTED = {"image_size": 160}  # of timm's own tiny models, 10 x 10 patches
TOWERS = {
    "native": VISION,
    "native average": VISION | {"pool_type": "avg", "final_ln_after_pool": True},
    "native qk-norm": VISION | {"qk_norm": True},
    "native attentional pool": VISION | {"attentional_pool": True, "attn_pooler_queries": 3},
    "timm": TESTED | {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"},
    "timm average": TESTED | {"timm_model_name": "test_vit2", "timm_pool": "avg", "timm_proj": "mlp"},
    "timm siglip": TESTED | {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none"},
}


@functools.cache
def timm_model(name):
    """One of TIMM, in evaluation mode."""
    return filled(TIMM[name]())


@functools.cache
def clip(name):
    """A CLIP with one of TOWERS as its image tower, in evaluation mode."""
    kind = open_clip.model.CustomTextCLIP if name == "timm siglip" else open_clip.model.CLIP
    width = 96 if name == "timm siglip" else 24
    return filled(kind(embed_dim=width, vision_cfg=dict(TOWERS[name]), text_cfg=dict(TEXT)))


def clip_pictures(name, n=3):
    """Pictures of the size the image tower of a CLIP takes."""
    return pictures(n, TOWERS[name]["image_size"])


def filled(model, seed=0):
    """Weights of a size that matters: every block changes every token, heads tell pictures apart."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=draw) * 0.15)
    return model.eval()


def pictures(n=3, side=SIDE, seed=0):
    """Unlike pictures (n, 3, side, side)."""
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def text(n=2):
    """Token ids (n, 8)."""
    return torch.arange(8 * n).view(n, 8) % 49 + 1
