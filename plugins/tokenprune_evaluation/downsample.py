# SPDX-License-Identifier: Apache-2.0
"""The baseline that prunes nothing: a smaller image through the same tower.

It changes the inputs before any stage, so it is not a method: pixels are resized to a coarser grid of
patches, superfluous placeholders are removed from the prompt, and the tower interpolates its position
embeddings. For towers with a fixed square grid, such as LLaVA's.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune import IncompatibleError

NAME = "downsample"


def check(model: Any) -> None:
    """Raise IncompatibleError if the vision tower does not accept a square image of any size."""
    vision = getattr(model.config, "vision_config", None)
    tower = getattr(getattr(model, "model", None), "vision_tower", None)
    fixed = all(isinstance(getattr(vision, name, None), int) for name in ("image_size", "patch_size"))
    tiled = getattr(model.config, "image_grid_pinpoints", None) is not None
    if tower is None or not fixed or tiled:
        raise IncompatibleError(f"{NAME} needs a vision tower with a fixed square grid, such as LLaVA's")
    if "interpolate_pos_encoding" not in inspect.signature(tower.forward).parameters:
        raise IncompatibleError(f"{NAME} needs a vision tower that can interpolate its position embeddings")


def grid_side(keep: int) -> int:
    """Return the side of the largest square grid of at most `keep` patches."""
    return math.isqrt(keep)


def downsample(
    inputs: dict[str, Any], image_token: int, patch_side: int, keep: int, pad_token: int = 0
) -> dict[str, Any]:
    """Resize the images of a batch to at most `keep` visual tokens each.

    Parameters
    ----------
    inputs
        As a processor returns them: `input_ids`, `attention_mask` (B, L), `pixel_values` (images, 3, S, S).
    image_token
        Id of the placeholders; every image has (S / patch_side)^2 of them.
    patch_side
        Side of a patch in pixels.
    keep
        The budget; the side of the grid is rounded down.
    pad_token
        Id of the padding in front of shorter rows, which is masked.

    Returns
    -------
    dict
        The same entries, (B, L') padded on the left and (images, 3, S', S').
    """
    pixels: Tensor = inputs["pixel_values"]
    before = pixels.shape[-1] // patch_side
    side = min(grid_side(keep), before)
    smaller = nn.functional.interpolate(
        pixels, size=(side * patch_side,) * 2, mode="bilinear", antialias=True, align_corners=False
    )
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    is_image = ids == image_token
    number = is_image.cumsum(1) - 1  # of each placeholder in its row
    remains = (~is_image | (number % before**2 < side**2)) & mask.bool()
    width = int(remains.sum(1).max())
    order = remains.int().argsort(dim=1, stable=True)  # the remaining ones come last
    order = order[:, ids.shape[1] - width :]
    kept = remains.gather(1, order)
    short_ids = torch.where(kept, ids.gather(1, order), pad_token)
    return {**inputs, "input_ids": short_ids, "attention_mask": kept.to(mask.dtype), "pixel_values": smaller}


@contextmanager
def interpolated_positions(model: Any) -> Iterator[None]:
    """Let the vision tower interpolate its position embeddings within the block."""

    def interpolate(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "interpolate_pos_encoding": True}

    with model.model.vision_tower.register_forward_pre_hook(interpolate, with_kwargs=True):
        yield
