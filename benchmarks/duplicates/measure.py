# SPDX-License-Identifier: Apache-2.0
"""Count the tokens of a picture that `duplicates` keeps, and time it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import Qwen2VLImageProcessor

import tokenprune

TOLERANCES = (0.0, 0.1)
MERGED = 2  # patches along a side of a token
SIDES = (28, 32)  # pixels along a side of a token: of Qwen2-VL and Qwen2.5-VL, of Qwen3-VL
LARGEST = 4_000_000  # pixels up to which the processor does not shrink a picture


@dataclass(frozen=True)
class Kept:
    """Tokens kept with a tolerance, without a limit; median seconds of the selection."""

    tolerance: float
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Counted:
    """One picture, divided into tokens of `side` pixels.

    `plain`: tokens of a single colour; `distinct`: different tokens, wherever they are in the picture.
    """

    picture: str
    width: int
    height: int
    side: int
    tokens: int
    plain: int
    distinct: int
    kept: tuple[Kept, ...]


def processed(picture: Image.Image, side: int) -> Any:
    """Return a picture as the image processor of Qwen2-VL divides it into tokens of `side` pixels."""
    processor = Qwen2VLImageProcessor(patch_size=side // MERGED, merge_size=MERGED, max_pixels=LARGEST)
    return processor(images=[picture], return_tensors="pt")


def tokens_of(picture: Image.Image, side: int) -> tokenprune.VisualTokens:
    """Return the tokens of a picture as the image processor of Qwen2-VL divides it, with their pixels.

    Their features are not those of a model; the selector does not use them.
    """
    inputs = processed(picture, side)
    frames, height, width = inputs["image_grid_thw"][0].tolist()
    grid = (frames, height // MERGED, width // MERGED)
    pixels = inputs["pixel_values"].view(grid[0] * grid[1] * grid[2], -1)
    return tokenprune.VisualTokens(pixels[:, :1], {"pixels": pixels}, tokenprune.Layout(grid))


def counted(name: str, picture: Image.Image, side: int, repeats: int = 5) -> Counted:
    """Count and time one picture."""
    tokens = tokens_of(picture, side)
    pixels = tokens.signal("pixels")
    return Counted(
        picture=name,
        width=picture.width,
        height=picture.height,
        side=side,
        tokens=len(tokens),
        plain=int(_is_plain(pixels).sum()),
        distinct=len(torch.unique(pixels, dim=0)),
        kept=tuple(_kept(tokens, tolerance, repeats) for tolerance in TOLERANCES),
    )


def _kept(tokens: tokenprune.VisualTokens, tolerance: float, repeats: int) -> Kept:
    selector, seconds = tokenprune.selector("duplicates", tolerance=tolerance), []
    for _ in range(repeats):
        start = time.perf_counter()
        n_kept = len(selector.select(tokens, None, len(tokens)))
        seconds.append(time.perf_counter() - start)
    return Kept(tolerance, n_kept, median(seconds))


def _is_plain(pixels: Tensor) -> Tensor:
    """Return which tokens (N, P C T p p) have a single colour."""
    by_channel = pixels.view(len(pixels), MERGED**2, 3, -1)
    return (by_channel.amax((1, 3)) == by_channel.amin((1, 3))).all(-1)
