# SPDX-License-Identifier: Apache-2.0
"""How much memory a benchmark needs, before anything is allocated."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from tokenprune_cli.console.failures import BadInputError
from tokenprune_cli.evaluation.costs import kv_cache_bytes

GIB = 1 << 30


def n_parameters(config: Any) -> int:
    """Parameters of a model, without making it."""
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    return sum(weight.numel() for weight in model.parameters())


def needed_bytes(config: Any, value_bytes: int, batch: int, rows: int) -> dict[str, int]:
    """Weights, key-value cache and a layer's intermediate values for `batch` prompts of `rows` rows."""
    text = config.text_config
    widest = 4 * text.hidden_size + 3 * text.intermediate_size
    return {
        "weights": n_parameters(config) * value_bytes,
        "cache": batch * kv_cache_bytes(text, rows, value_bytes),
        "intermediate values": batch * rows * widest * value_bytes,
    }


def free_bytes(device: torch.device) -> int:
    """Memory that can be had on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_fit(config: Any, device: torch.device, value_bytes: int, batch: int, rows: int) -> None:
    """Refuse what does not fit, and say how much memory is needed, for what, and how much there is."""
    need, free = needed_bytes(config, value_bytes, batch, rows), free_bytes(device)
    if sum(need.values()) > free:
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in need.items())
        raise BadInputError(
            f"the model does not fit: about {sum(need.values()) / GIB:.1f} GiB are needed at batch size "
            f"{batch} ({parts}), {free / GIB:.1f} GiB are free on {device}; take a smaller --batch, "
            "--dtype bfloat16 or a smaller model"
        )
