# SPDX-License-Identifier: Apache-2.0
"""Fit a linear probe on a tower's output: which colour-shape pairs and which digits a scene contains.

The probe is fitted on the unpruned tower, so that it favours no pruning method.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.scenes.palette import COLOR_NAMES, SHAPE_NAMES
from benchmarks.scenes.patch_labels import N_SUMMARY, label_patches
from benchmarks.scenes.scene import Scene
from benchmarks.scenes.splits import scene_from_seed, training_scene_seed
from benchmarks.training.architecture import pixel_values

_N_PAIRS = len(COLOR_NAMES) * len(SHAPE_NAMES)
TASKS = {"pairs": slice(0, _N_PAIRS), "digits": slice(_N_PAIRS, N_SUMMARY)}
SEED = 100  # of a block of training scenes on which no tower was trained
N_SCENES = 8192
_DECAY = 1e-4
_BATCH = 128
_STEPS = 200


def labelled(scenes: Iterable[Scene]) -> tuple[Tensor, Tensor]:
    """Return pixels (S, 3, H, W) and labels (S, M) of scenes, 1 if present; see `TASKS`."""
    scenes = list(scenes)
    labels = np.stack([label_patches(scene).summary for scene in scenes])
    return pixel_values(np.stack([scene.image for scene in scenes])), torch.from_numpy(labels)


@torch.no_grad()
def outputs(tower: nn.Module, pixels: Tensor) -> Tensor:
    """Run a tower on images, (S, 3, H, W) -> (S, D), in batches."""
    return torch.cat([tower(batch) for batch in torch.split(pixels, _BATCH)])


def fit(features: Tensor, labels: Tensor) -> nn.Linear:
    """Fit a logistic regression for each label.

    Parameters
    ----------
    features, labels
        (S, D), and (S, M) with values 0 and 1.
    """
    with torch.random.fork_rng():  # the initial weights are not used
        probe = nn.Linear(features.shape[1], labels.shape[1])
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    optimiser = torch.optim.LBFGS(
        probe.parameters(), max_iter=_STEPS, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        misfit = nn.functional.binary_cross_entropy_with_logits(probe(features), labels, reduction="sum")
        loss = misfit / len(features) + _DECAY * probe.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return probe.requires_grad_(False)


def with_probe(tower: Any, n_scenes: int = N_SCENES) -> nn.Module:
    """Fit a probe and set it as the head of a timm tower, in place: images -> logits (S, M)."""
    seeds = (training_scene_seed(SEED, "tower", number) for number in range(n_scenes))
    features, labels = [], []
    while chunk := list(islice(seeds, _BATCH)):
        pixels, present = labelled(scene_from_seed(seed)[0] for seed in chunk)
        features.append(outputs(tower, pixels))
        labels.append(present)
    tower.head = fit(torch.cat(features), torch.cat(labels))
    model: nn.Module = tower
    return model


def f1(predicted: Tensor, present: Tensor) -> float:
    """Return the F1 score over all scenes and labels, from booleans (S, M).

    It is 0 if nothing is present and nothing is predicted.
    """
    right, sizes = _counts(predicted, present)
    return float(2 * right.sum() / max(1, sizes.sum()))


def f1_interval(predicted: Tensor, present: Tensor, n_draws: int = 2000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of `f1` over scenes, with a fixed seed."""
    right, sizes = _counts(predicted, present)
    n = len(right)
    draws = np.random.default_rng(0).multinomial(n, [1 / n] * n, size=n_draws)  # (n_draws, S)
    low, high = np.percentile(2 * (draws @ right) / np.maximum(1, draws @ sizes), [2.5, 97.5])
    return float(low), float(high)


def _counts(predicted: Tensor, present: Tensor) -> Sequence[np.ndarray]:
    """Return, for each scene, the numbers of true positives, and of predicted plus present labels."""
    return (predicted & present).sum(1).numpy(), (predicted.sum(1) + present.sum(1)).numpy()
