# SPDX-License-Identifier: Apache-2.0
"""The model that is timed: of a configuration with random weights, or as it is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tokenprune_cli.bench.fit import check_fit
from tokenprune_cli.bench.presets import Preset
from tokenprune_cli.console.models import Device, Precision, load_config, place_of, precision_of


def configuration(preset: Preset, model: str | None) -> Any:
    """Read a model's configuration, or take the preset's."""
    return preset.config() if model is None else load_config(model)


def prepared(
    config: Any, preset: Preset, device: Device, precision: Precision, load: Callable[[], Any] | None = None
) -> Any:
    """Make the model where it is to run, after asking whether it fits.

    Parameters
    ----------
    load
        Loads stored weights; None: random ones.
    """
    from transformers import AutoModelForImageTextToText

    place = torch.device(place_of(device))
    dtype, amount = precision_of(precision, place.type), preset.amount
    rows = amount.text_tokens + visual_tokens(config, amount.side) + max(amount.new_tokens)
    check_fit(config, place, dtype.itemsize, max(amount.batches), rows)
    if load is None:
        with place, torch.random.fork_rng(devices=[] if place.type == "cpu" else None):
            model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    else:
        model = load()
    model.generation_config.eos_token_id = None  # answers have the length asked for
    return model.to(place).eval()


def visual_tokens(config: Any, side: int) -> int:
    """Visual tokens of a picture, about."""
    vision = config.vision_config
    if config.model_type.startswith("qwen"):
        return side * side
    tokens: int = (vision.image_size // vision.patch_size) ** 2
    if config.model_type != "llava_next":
        return tokens
    canvas = max(int(height * width) for height, width in config.image_grid_pinpoints)
    return tokens * (1 + canvas // int(vision.image_size) ** 2)
