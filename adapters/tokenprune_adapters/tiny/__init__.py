# SPDX-License-Identifier: Apache-2.0
"""Tiny random models of each family of transformers, from the configurations in this folder; no download."""

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
SPREAD = 1.5  # gain of a matrix on unit rows, at which every token matters and none dominates


def specimens(
    *names: str, least: tuple[int, int] | None = None, package: str = "transformers"
) -> tuple[Specimen, ...]:
    """Specimens of the configurations in this folder, by name.

    `least` is the first version of the package with them; `package` is timm for models with its towers.
    """
    if least is not None:
        remedy = f"pip install '{package}>={least[0]}.{least[1]}'"
    else:
        remedy = "" if package == "transformers" else f"pip install {package}"
    return tuple(
        Specimen(name, functools.partial(tiny_model, name), package, remedy, least) for name in names
    )


def tiny_model(name: str) -> Any:
    """Build a model from a configuration, in evaluation mode, with fixed random weights."""
    from ..transformers.stock import model_of  # imports transformers, which listing adapters must not

    settings = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    with torch.random.fork_rng(devices=[]):
        # some vectors are drawn from the global generator, and are not replaced below
        torch.set_rng_state(torch.Generator().manual_seed(0).get_state())
        return filled(model_of(settings))


@torch.no_grad()
def filled(model: nn.Module, seed: int = 0) -> nn.Module:
    """Initialise a model with random weights large enough that dropped tokens, positions and masks matter."""
    draw = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=draw)
        if weight.ndim > 1:
            weight.copy_(noise * SPREAD / math.sqrt(weight[0].numel()))
        else:  # norms and biases
            weight.add_(noise * 0.1)
    return model.eval()
