# SPDX-License-Identifier: Apache-2.0
"""Tiny models of each family of transformers, made from the configurations in this folder; no download."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tokenprune.trial import Specimen

FOLDER = Path(__file__).parent
SPREAD = 1.5  # of what a matrix makes of rows of size 1: so that each token counts, and none alone


def specimens(*names: str) -> tuple[Specimen, ...]:
    """The tiny models of configurations in this folder, by name."""
    return tuple(Specimen(name, functools.partial(tiny_model, name)) for name in names)


def tiny_model(name: str) -> Any:
    """A model of one of the configurations, in evaluation mode, with the same random weights every time."""
    from ..transformers.stock import model_of  # needs transformers; looking adapters up does not

    return filled(model_of(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))))


@torch.no_grad()
def filled(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every matrix random weights of a size at which dropped tokens, positions and masks show."""
    draw = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=draw)
        if weight.ndim > 1:
            weight.copy_(noise * SPREAD / math.sqrt(weight[0].numel()))
        else:  # norms and biases
            weight.add_(noise * 0.1)
    return model.eval()
