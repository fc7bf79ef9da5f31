# SPDX-License-Identifier: Apache-2.0
"""Make the model that is timed, with random or stored weights, if it fits into memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenprune_evaluation.costs import kv_cache_bytes

from tokenprune_cli.bench.clock import proc_bytes
from tokenprune_cli.bench.presets import Amount
from tokenprune_cli.console.failures import BadInputError
from tokenprune_cli.console.models import Device, Precision, place_of, precision_of

GIB = 1 << 30


def make_model(
    config: Any, amount: Amount, device: Device, precision: Precision, load: Callable[[], Any] | None = None
) -> Any:
    """Make the model on the device that it is timed on.

    Parameters
    ----------
    load
        Loads stored weights; None: weights are random.

    Raises
    ------
    BadInputError
        If the model does not fit into memory with the largest batch of `amount`.
    """
    from transformers import AutoModelForImageTextToText

    place = torch.device(place_of(device))
    dtype = precision_of(precision, place.type)
    rows = amount.text_tokens + visual_tokens(config, amount.picture) + max(amount.new_tokens)
    check_fit(config, place, dtype.itemsize, max(amount.batches), rows)
    if load is None:
        with place, torch.random.fork_rng(devices=[] if place.type == "cpu" else None):
            model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    else:
        model = load()
    model.generation_config.eos_token_id = None  # so that answers have the requested length
    return model.to(place).eval()


def check_fit(config: Any, device: torch.device, value_bytes: int, batch: int, rows: int) -> None:
    """Raise an error if a model does not fit into memory; it says how much is needed, and for what."""
    needed, free = needed_bytes(config, value_bytes, batch, rows), free_bytes(device)
    if sum(needed.values()) > free:
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in needed.items())
        raise BadInputError(
            f"the model does not fit: about {sum(needed.values()) / GIB:.1f} GiB are needed at batch size "
            f"{batch} ({parts}), {free / GIB:.1f} GiB are free on {device}; use a smaller --batch, "
            "--dtype bfloat16 or a smaller model"
        )


def needed_bytes(config: Any, value_bytes: int, batch: int, rows: int) -> dict[str, int]:
    """Estimate the size of the weights, and of the cache and a layer's intermediate values for a batch."""
    text = config.text_config
    widest = 4 * text.hidden_size + 3 * text.intermediate_size
    return {
        "weights": n_parameters(config) * value_bytes,
        "cache": batch * kv_cache_bytes(text, rows, value_bytes),
        "intermediate values": batch * rows * widest * value_bytes,
    }


def n_parameters(config: Any) -> int:
    """Count the parameters of a model without allocating them."""
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    return sum(weight.numel() for weight in model.parameters())


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return proc_bytes(Path("/proc/meminfo"), "MemAvailable") or total


def visual_tokens(config: Any, picture: tuple[int, int]) -> int:
    """Estimate the number of visual tokens of an image; `picture` is its size in tokens, if it is free."""
    vision = config.vision_config
    if config.model_type.startswith("qwen"):
        return picture[0] * picture[1]
    tokens: int = (vision.image_size // vision.patch_size) ** 2
    if config.model_type != "llava_next":
        return tokens
    canvas = max(int(height * width) for height, width in config.image_grid_pinpoints)
    return tokens * (1 + canvas // int(vision.image_size) ** 2)
