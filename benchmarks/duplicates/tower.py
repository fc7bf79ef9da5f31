# SPDX-License-Identifier: Apache-2.0
"""Time the vision tower of Qwen2.5-VL on a picture, whole and without its duplicate tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from PIL import Image
from tokenprune_cli.bench.presets import PRESETS
from transformers import AutoModelForImageTextToText

import tokenprune

from .measure import processed, tokens_of

PRESET = "cpu-tower-qwen"
SIDE = 28  # pixels along a side of a token


@dataclass(frozen=True)
class TowerTime:
    """Median seconds of a tower on one picture, and its median share without duplicates, in the same run.

    The tokens are those kept without tolerance; the share includes their selection.
    """

    picture: str
    tokens: int
    kept: int
    seconds: float
    share: float


def qwen() -> Any:
    """A model with the tower of the preset `cpu-tower-qwen`, 12 blocks of width 384, with random weights."""
    config = PRESETS[PRESET].config()
    config.text_config.num_hidden_layers = 1  # it is not run
    config.text_config.layer_types = config.text_config.layer_types[:1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval()


@torch.inference_mode()
def timed(model: Any, name: str, picture: Image.Image, repeats: int = 3) -> TowerTime:
    """Run the tower whole and without duplicates, in turns."""
    inputs = processed(picture, SIDE)
    tokens = tokens_of(picture, SIDE)
    kept = len(tokenprune.selector("duplicates").select(tokens, None, len(tokens)))
    whole, shares = [], []
    for _ in range(repeats):
        whole.append(_seconds(model, inputs))
        with tokenprune.apply(model, selector="duplicates", keep_ratio=1.0, stage="vision", layer=0):
            shares.append(_seconds(model, inputs) / whole[-1])
    return TowerTime(name, len(tokens), kept, median(whole), median(shares))


def _seconds(model: Any, inputs: Any) -> float:
    start = time.perf_counter()
    model.model.get_image_features(**inputs)
    return time.perf_counter() - start
