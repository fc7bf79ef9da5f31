# SPDX-License-Identifier: Apache-2.0
"""Adapter for open_clip: `CLIP` and `CustomTextCLIP` with open_clip's or timm's vision transformer.

Only the image tower is pruned. Checked with open_clip 3.3.0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import tokenprune

from .authoring import (
    Matrix,
    NormTap,
    ProjectionTap,
    QueryKeyTap,
    Specimen,
    TokenHead,
    Tower,
    VisionTowerAdapter,
    filled,
    patch_of,
)
from .timm_vit import timm_tower

MODELS = frozenset({"CLIP", "CustomTextCLIP"})
REASONS = {
    "ModifiedResNet": "its image tower is a convolutional network, which has no tokens",
    "CoCa": "its captions are generated from pooled tokens, which this adapter was not tested with",
}


class OpenClipAdapter(VisionTowerAdapter):
    """Adapter for a model of open_clip or one of its image towers; the text tower is left unchanged."""

    name: ClassVar[str] = "open_clip"

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        """Whether this is a model of open_clip; `find_tower` decides whether it can be pruned."""
        model = getattr(model, "_orig_mod", model)
        return any(base.__module__.startswith("open_clip.") for base in type(model).__mro__)

    @classmethod
    def specimens(cls) -> tuple[Specimen, ...]:
        """A CLIP with open_clip's own image tower."""
        return (Specimen("open-clip", _tiny_clip, "open_clip", "pip install -e '.[open_clip]'"),)

    def find_tower(self, model: nn.Module) -> Tower:
        """Describe the model as a tower; see `VisionTowerAdapter.find_tower`."""
        visual: Any = model.visual if _names(model) & MODELS else model
        if "TimmModel" in _names(visual):
            if hasattr(visual.head, "pool"):
                _refuse(model, "its pooling arranges the tokens of the last block on a grid")
            last = tuple(module for module in visual.head if not isinstance(module, nn.Dropout))
            return timm_tower(visual.trunk, last)
        if "VisionTransformer" not in _names(visual):
            reasons = [REASONS[name] for name in sorted(_names(visual)) if name in REASONS]
            _refuse(model, reasons[0] if reasons else "this adapter does not know it")
        if not visual.transformer.batch_first:
            _refuse(model, "its blocks take tokens before the batch axis (batch_first=False)")
        return _native_tower(visual)


def _native_tower(visual: Any) -> Tower:
    """Describe open_clip's own vision transformer; with attentional pooling it has no token head."""
    head = None
    if visual.attn_pool is None and visual.pool_type != "none":
        head = TokenHead(visual.ln_post, [nn.Identity() if visual.proj is None else Matrix(visual.proj)])
    return Tower(
        module=visual,
        entry=visual.conv1,
        blocks=tuple(visual.transformer.resblocks),
        n_prefix=1,
        has_class_token=True,
        usual=tuple(visual.grid_size),
        grid=lambda height, width: (height // visual.patch_size[0], width // visual.patch_size[1]),
        tap=_attention_tap,
        head=head,
        is_checkpointing=lambda: bool(visual.transformer.grad_checkpointing),
        patch=patch_of(visual.conv1),
    )


def _attention_tap(block: Any) -> Callable[[], QueryKeyTap] | None:
    """Factory of the tap on a block's attention; None if it is not a plain softmax of queries and keys."""
    attention = block.attn
    if isinstance(attention, nn.MultiheadAttention):
        return partial(ProjectionTap, block.ln_1, attention)
    if getattr(attention, "logit_scale", True) is not None:  # scaled cosine
        return None
    return partial(NormTap, attention, attention.ln_q, attention.ln_k, attention.scale, _unrotated)


def _unrotated(rows: Tensor, rope: Tensor) -> Tensor:
    return rows  # no rotary positions here


def _names(model: nn.Module) -> set[str]:
    return {base.__name__ for base in type(model).__mro__ if base.__module__.startswith("open_clip.")}


def _refuse(model: nn.Module, reason: str) -> None:
    raise tokenprune.UnsupportedModelError(
        f"open_clip's {type(model).__name__} cannot be pruned: {reason}. Supported are CLIP and "
        "CustomTextCLIP with a vision transformer of open_clip or timm"
    )


def _tiny_clip() -> nn.Module:
    import open_clip

    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "patch_size": 8, "width": 16, "head_width": 8, "layers": 3}
    with torch.random.fork_rng(devices=[]):
        return filled(open_clip.model.CLIP(8, vision, text))


@tokenprune.hookimpl
def tokenprune_adapters() -> list[type[tokenprune.ModelAdapter]]:
    """Deliver the adapter."""
    return [OpenClipAdapter]
