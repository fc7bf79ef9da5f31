# SPDX-License-Identifier: Apache-2.0
"""Measure the accuracy of the embedded tower, pruned before several blocks, with a linear probe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from tokenprune_evaluation.downsample import NAME as DOWNSAMPLE
from tokenprune_evaluation.downsample import grid_side
from torch import Tensor, nn

import tokenprune
from benchmarks.scenes.scene import PATCH_SIDE
from benchmarks.scenes.splits import held_out_scenes
from benchmarks.towers.probe import TASKS, f1, f1_interval, labelled, outputs

N_HELD_OUT = 1000
LAYERS = (1, 2, 3)
KEEPS = (108, 72, 36, 18)
UNPRUNED, ALWAYS = "unpruned", "everything is there"


def settings() -> dict[str, dict[str, Any]]:
    """Return the compared settings: arguments of `tokenprune.apply` by name, all that towers support."""
    received = tokenprune.scorer("attention", source="received")
    return {
        "divprune": {"method": "divprune"},
        "vispruner": {"method": "vispruner"},
        "attention + diverse": {"scorer": "attention", "selector": "diverse"},
        "attention + topk": {"scorer": "attention", "selector": "topk"},
        "received attention + diverse": {"scorer": received, "selector": "diverse"},
        "received attention + topk": {"scorer": received, "selector": "topk"},
        "zoo-exact": {"method": "zoo-exact"},
        "zoo-prune": {"method": "zoo-prune"},
        "zoo-exact + topk": {"scorer": "zoo-exact", "selector": "topk"},
        "random": {"method": "random"},
        "stride": {"method": "stride"},
        "pool": {"method": "pool"},
    }


def smaller(pixels: Tensor, keep: int) -> Tensor:
    """Resize images (S, 3, H, W) to at most `keep` patches."""
    side = grid_side(keep) * PATCH_SIDE
    return nn.functional.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)


def figures(predicted: Tensor, present: Tensor) -> dict[str, dict[str, float]]:
    """Return F1 of each task in per cent, with its interval, from booleans (S, M)."""
    read = {}
    for task, where in TASKS.items():
        pair = predicted[:, where], present[:, where]
        values = (f1(*pair), *f1_interval(*pair))
        read[task] = {
            name: round(100 * value, 2) for name, value in zip(("f1", "low", "high"), values, strict=True)
        }
    return read


def measure(
    model: nn.Module,
    compared: Mapping[str, Mapping[str, Any]],
    n_scenes: int = N_HELD_OUT,
    tick: Callable[[str], None] = lambda what: None,
) -> list[dict[str, Any]]:
    """Evaluate a tower with a probe on `n_scenes` held-out scenes, unpruned and under every setting.

    Returns
    -------
    list
        An entry per measurement: setting, `layer` of the cut, `keep`, F1 of each task.
    """
    pixels, labels = labelled(scene for scene, _ in held_out_scenes(n_scenes))
    present = labels > 0

    def entry(
        name: str, predicted: Tensor, layer: int | None = None, keep: int | None = None
    ) -> dict[str, Any]:
        tick(f"{name}, before block {layer}, keep {keep}")
        return {"setting": name, "layer": layer, "keep": keep, **figures(predicted, present)}

    entries = [
        entry(UNPRUNED, outputs(model, pixels) > 0),
        entry(ALWAYS, torch.ones_like(present)),
        *(entry(DOWNSAMPLE, outputs(model, smaller(pixels, keep)) > 0, None, keep) for keep in KEEPS),
    ]
    for layer in LAYERS:
        for name, setting in compared.items():
            for keep in KEEPS:
                with tokenprune.apply(model, **setting, keep=keep, layer=layer):
                    entries.append(entry(name, outputs(model, pixels) > 0, layer, keep))
    return entries
