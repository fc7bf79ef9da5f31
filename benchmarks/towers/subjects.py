# SPDX-License-Identifier: Apache-2.0
"""Large towers of timm and open_clip to time, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Subject:
    """A model, a function that runs it on images (B, 3, side, side), its blocks and its number of patches."""

    model: nn.Module
    run: Callable[[Tensor], Tensor]
    blocks: Sequence[nn.Module]
    n_patches: int
    side: int


def timm_subject(name: str, **options: Any) -> Subject:
    """Return a timm vision transformer, as a classifier."""
    import timm

    model: Any = timm.create_model(name, **options).eval()
    embed = model.patch_embed
    return Subject(model, model, model.blocks, embed.num_patches, embed.img_size[0])


def open_clip_subject(name: str) -> Subject:
    """Return the image tower of an open_clip model, run by `encode_image`."""
    import open_clip

    model: Any = open_clip.create_model(name, pretrained=None).eval()
    visual = model.visual
    n_patches = visual.grid_size[0] * visual.grid_size[1]
    blocks = visual.transformer.resblocks
    return Subject(model, model.encode_image, blocks, n_patches, visual.image_size[0])


SUBJECTS: Mapping[str, Callable[[], Subject]] = {
    "timm ViT-B/16": lambda: timm_subject("vit_base_patch16_224"),
    "open_clip ViT-B-16": lambda: open_clip_subject("ViT-B-16"),
    "open_clip ViT-B-32": lambda: open_clip_subject("ViT-B-32"),
}
