# SPDX-License-Identifier: Apache-2.0
"""Random model inputs of given sizes: rows of an image between text tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenprune_cli.console.failures import BadInputError

FAMILIES = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl")


@dataclass(frozen=True)
class Workload:
    """Model inputs for `batch` rows of `before` text tokens, `n_visual` visual tokens, `after` text tokens.

    `tower_arguments` names the inputs that the vision tower takes. It sees each image as `tiles` tiles, of
    `picture` (height, width) visual tokens.
    """

    inputs: dict[str, Tensor]
    tower_arguments: tuple[str, ...]
    batch: int
    n_visual: int
    before: int
    after: int
    picture: tuple[int, int]
    tiles: int = 1

    @property
    def n_text(self) -> int:
        """Number of text tokens in a row."""
        return self.before + self.after

    def first_row(self) -> dict[str, Tensor]:
        """Return the inputs of the first row alone."""
        return {name: rows[: len(rows) // self.batch] for name, rows in self.inputs.items()}


@torch.no_grad()
def make_workload(
    model: Any, batch: int, text_tokens: int, picture: tuple[int, int], seed: int = 0
) -> Workload:
    """Make the inputs on the model's device.

    Parameters
    ----------
    model
        A LLaVA, LLaVA-NeXT, Qwen2-VL or Qwen2.5-VL model of transformers.
    text_tokens
        Number of text tokens in a row, at least 2.
    picture
        Height and width of the image in visual tokens, for models that accept images of any size.

    Raises
    ------
    BadInputError
        For a model of another family.
    """
    config, generator = model.config, torch.Generator().manual_seed(seed)
    family = config.model_type
    if family not in FAMILIES:
        raise BadInputError(f"bench makes inputs for {', '.join(FAMILIES)}; this model is a {family!r}")
    tiles = 1
    if family.startswith("qwen"):
        tower = _qwen_picture(config, picture)
    else:
        side = config.vision_config.image_size // config.vision_config.patch_size
        tower, picture = _clip_picture(config, family), (side, side)
        tiles = tower["shape"][1] if family == "llava_next" else 1
    pixels = torch.randn(tower.pop("shape"), generator=generator)
    tower["pixel_values"] = pixels.to(model.device, model.dtype)
    tower = {name: value.to(model.device) for name, value in tower.items()}
    n_visual = len(model.model.get_image_features(**tower).pooler_output[0])
    before = text_tokens // 2 + 1
    words = min(config.text_config.vocab_size, config.image_token_id)
    text = torch.randint(words // 4, words // 2, (batch, text_tokens), generator=generator)
    placeholders = torch.full((batch, n_visual), config.image_token_id)
    ids = torch.cat([text[:, :before], placeholders, text[:, before:]], 1).to(model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if family.startswith("qwen"):
        inputs["mm_token_type_ids"] = (ids == config.image_token_id).int()
    inputs |= {name: value.repeat(batch, *[1] * (value.ndim - 1)) for name, value in tower.items()}
    after = text_tokens - before
    return Workload(inputs, tuple(tower), batch, n_visual, before, after, picture, tiles)


def _clip_picture(config: Any, family: str) -> dict[str, Any]:
    """Return the inputs of an image of LLaVA, or of LLaVA-NeXT on its largest square canvas."""
    size = config.vision_config.image_size
    if family == "llava":
        return {"shape": (1, 3, size, size)}
    canvas = max((c for c in config.image_grid_pinpoints if c[0] == c[1]), default=[size, size])
    tiles = 1 + (canvas[0] // size) ** 2
    return {"shape": (1, tiles, 3, size, size), "image_sizes": torch.tensor([canvas])}


def _qwen_picture(config: Any, picture: tuple[int, int]) -> dict[str, Any]:
    """Return the inputs of an image of (height, width) visual tokens, as packed patches."""
    vision = config.vision_config
    height, width = (tokens * vision.spatial_merge_size for tokens in picture)
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return {"shape": (height * width, values), "image_grid_thw": torch.tensor([[1, height, width]])}
