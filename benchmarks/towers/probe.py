# SPDX-License-Identifier: Apache-2.0
"""A linear probe on a tower's output: which colour-shape pairs are in a scene, and which digits on its signs.

The probe is fitted with all tokens and never sees a pruned tower, so that it favours no way of pruning.
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
SEED = 100  # of a block of training scenes which no tower was trained on
N_SCENES = 8192
_DECAY = 1e-4
_BATCH = 128
_STEPS = 200


def labelled(scenes: Iterable[Scene]) -> tuple[Tensor, Tensor]:
    """Pixels (S, 3, H, W) and labels (S, M) of scenes, 1 for what is there; see `TASKS`."""
    known = list(scenes)
    labels = np.stack([label_patches(scene).summary for scene in known])
    return pixel_values(np.stack([scene.image for scene in known])), torch.from_numpy(labels)


@torch.no_grad()
def outputs(tower: nn.Module, pixels: Tensor) -> Tensor:
    """What a tower gives for pictures (S, 3, H, W) -> (S, D), some pictures at a time."""
    return torch.cat([tower(some) for some in torch.split(pixels, _BATCH)])


def fit(features: Tensor, labels: Tensor) -> nn.Linear:
    """Fit one logistic regression for each label.

    Parameters
    ----------
    features, labels
        (S, D) and (S, M) of 0 and 1.
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
    """Give a timm tower, in place, a fitted probe as its head: pictures -> logits (S, M)."""
    seeds = (training_scene_seed(SEED, "tower", number) for number in range(n_scenes))
    features, labels = [], []
    while some := list(islice(seeds, _BATCH)):
        pixels, there = labelled(scene_from_seed(seed)[0] for seed in some)
        features.append(outputs(tower, pixels))
        labels.append(there)
    tower.head = fit(torch.cat(features), torch.cat(labels))
    model: nn.Module = tower
    return model


def f1(found: Tensor, there: Tensor) -> float:
    """Harmonic mean of precision and recall over all scenes and labels, both (S, M) of booleans.

    It is 0 where nothing is there and nothing is found.
    """
    right, sizes = _counts(found, there)
    return float(2 * right.sum() / max(1, sizes.sum()))


def f1_interval(found: Tensor, there: Tensor, n_draws: int = 2000) -> tuple[float, float]:
    """95 % interval of `f1`: scenes are drawn again with replacement, always the same draws."""
    right, sizes = _counts(found, there)
    n = len(right)
    draws = np.random.default_rng(0).multinomial(n, [1 / n] * n, size=n_draws)  # (n_draws, S)
    low, high = np.percentile(2 * (draws @ right) / np.maximum(1, draws @ sizes), [2.5, 97.5])
    return float(low), float(high)


def _counts(found: Tensor, there: Tensor) -> Sequence[np.ndarray]:
    """Of each scene, labels found that are there, and how many are found plus how many are there."""
    return (found & there).sum(1).numpy(), (found.sum(1) + there.sum(1)).numpy()
