# SPDX-License-Identifier: Apache-2.0
"""Adapter for timm: `VisionTransformer` (ViT, DeiT, DINOv2, SigLIP) and `Eva` (EVA, DINOv3).

Checked with timm 1.0.31.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import tokenprune

from .authoring import NormTap, QueryKeyTap, Specimen, TokenHead, Tower, VisionTowerAdapter, filled, patch_of

KNOWN = frozenset({"VisionTransformer", "Eva"})
# attention that is a plain softmax of normalised, rotated queries and keys
PLAIN_ATTENTION = frozenset({"Attention", "AttentionRope", "EvaAttention"})
WINDOWS = "it attends within windows of the grid, which must stay whole"
GRID_OUTPUT = "features_only=True arranges the tokens of late blocks on a grid; prune the plain model"
TABLES = "its attention adds a table of relative positions made for the whole grid"
REASONS = {
    "SwinTransformer": WINDOWS,
    "SwinTransformerV2": WINDOWS,
    "SwinTransformerV2Cr": WINDOWS,
    "VisionTransformerSAM": WINDOWS,
    "Beit": TABLES,
    "VisionTransformerRelPos": TABLES,
    "FeatureGetterNet": GRID_OUTPUT,
    "FeatureHookNet": GRID_OUTPUT,
}


class TimmAdapter(VisionTowerAdapter):
    """Adapter for timm's vision transformers, with or without a classifier."""

    name: ClassVar[str] = "timm"

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        """Whether this is a model of timm; `find_tower` decides whether it can be pruned."""
        return _is_from(getattr(model, "_orig_mod", model), "timm.models")

    @classmethod
    def specimens(cls) -> tuple[Specimen, ...]:
        """A ViT, and a tower with rotary position embeddings."""
        need = ("timm", "pip install -e '.[timm]'")
        return Specimen("timm-vit", _tiny_vit, *need), Specimen("timm-eva", _tiny_eva, *need)

    def find_tower(self, model: nn.Module) -> Tower:
        """Describe the model as a tower; see `VisionTowerAdapter.find_tower`."""
        return timm_tower(model)


def timm_tower(model: Any, last: tuple[nn.Module, ...] = ()) -> Tower:
    """Describe a timm vision transformer as a tower; `last` are a larger model's modules after its output.

    Raises
    ------
    UnsupportedModelError
        If it cannot be pruned, with the reason.
    """
    names = [base.__name__ for base in type(model).__mro__ if base.__module__.startswith("timm.models")]
    pool = getattr(model, "attn_pool", None)
    reason = next((REASONS[name] for name in names if name in REASONS), None)
    if reason is None and not KNOWN & set(names):
        reason = _shrinks(model) or "this adapter does not know it"
    if reason is None and getattr(pool, "pos_embed", None) is not None:
        reason = "its attention pooling adds a position to every token of the whole grid"
    if reason is not None:
        raise tokenprune.UnsupportedModelError(
            f"timm's {type(model).__name__} cannot be pruned: {reason}. Supported are VisionTransformer "
            "(ViT, DeiT, DINOv2, SigLIP, CLIP) and Eva (EVA, DINOv3, PE)"
        )
    heads = [model.head, model.head_dist] if hasattr(model, "head_dist") else [model.head]
    embed = model.patch_embed
    return Tower(
        module=model,
        entry=embed,
        blocks=tuple(model.blocks),
        n_prefix=model.num_prefix_tokens,
        has_class_token=model.cls_token is not None,
        usual=tuple(embed.grid_size),
        grid=lambda height, width: embed.dynamic_feat_size((height, width)),
        tap=attention_tap,
        head=TokenHead(model.norm, heads, pool, model.fc_norm, last),
        is_checkpointing=lambda: bool(model.grad_checkpointing),
        patch=patch_of(getattr(embed, "proj", None)),
    )


def attention_tap(block: Any) -> Callable[[], QueryKeyTap] | None:
    """Factory of the tap on a block's attention; None if it is not a plain softmax of queries and keys."""
    attention: Any = getattr(block, "attn", None)
    if type(attention).__name__ not in PLAIN_ATTENTION or not _is_from(attention, "timm."):
        return None

    def rotate(rows: Tensor, rope: Tensor) -> Tensor:
        from timm.layers import apply_rot_embed_cat  # installed, since the model is timm's

        n = attention.num_prefix_tokens
        rotated = apply_rot_embed_cat(rows[:, :, n:], rope, half=attention.rotate_half)
        return torch.cat([rows[:, :, :n], rotated], 2)

    return partial(NormTap, attention, attention.q_norm, attention.k_norm, attention.scale, rotate)


def _shrinks(model: Any) -> str | None:
    """Why a hierarchical model is refused; None for any other model."""
    stages = [stage["reduction"] for stage in getattr(model, "feature_info", None) or ()]
    if len(set(stages)) < 2:
        return None
    sizes = ", ".join(map(str, stages))
    return f"it is hierarchical: its stages downsample the whole grid ({sizes} pixels per cell)"


def _is_from(thing: Any, package: str) -> bool:
    return any(base.__module__.startswith(package) for base in type(thing).__mro__)


TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 5}


def _tiny_vit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng(devices=[]):
        return filled(VisionTransformer(**TINY))


def _tiny_eva() -> nn.Module:
    from timm.models.eva import Eva

    with torch.random.fork_rng(devices=[]):
        return filled(Eva(**TINY, use_rot_pos_emb=True))


@tokenprune.hookimpl
def tokenprune_adapters() -> list[type[tokenprune.ModelAdapter]]:
    """Deliver the adapter."""
    return [TimmAdapter]
