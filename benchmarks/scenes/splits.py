# SPDX-License-Identifier: Apache-2.0
"""Split scenes into training, validation and held-out sets by their seeds.

0     <= seed < 2**30   training (a block of 2**23 seeds for each training seed, halved between its phases)
2**30 <= seed < 2**31   validation: used to choose the training recipe
2**31 <= seed           held out: used only for the published figures, the demo and the benchmarks
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tokenprune_embedded import Question

from benchmarks.scenes.questions import ask
from benchmarks.scenes.scene import Scene, draw_scene

TRAINING_SEEDS = range(0, 2**30)
VALIDATION_SEEDS = range(2**30, 2**31)
HELD_OUT_SEEDS = range(2**31, 2**32)
_BLOCK = 2**23
PHASES = ("tower", "language")


def scene_from_seed(seed: int) -> tuple[Scene, list[Question]]:
    """Draw the scene of a seed and its questions."""
    rng = np.random.default_rng(seed)
    scene = draw_scene(rng)
    return scene, ask(rng, scene)


def _scenes(seeds: range, n: int, start: int) -> Iterator[tuple[Scene, list[Question]]]:
    if n < 0 or start < 0 or start + n > len(seeds):
        raise ValueError(f"scenes {start} to {start + n} are outside the range 0 to {len(seeds)}")
    return (scene_from_seed(seed) for seed in seeds[start : start + n])


def held_out_scenes(n: int, start: int = 0) -> Iterator[tuple[Scene, list[Question]]]:
    """Iterate over held-out scenes `start` to `start + n` with their questions; deterministic."""
    return _scenes(HELD_OUT_SEEDS, n, start)


def validation_scenes(n: int, start: int = 0) -> Iterator[tuple[Scene, list[Question]]]:
    """Iterate over validation scenes `start` to `start + n` with their questions; deterministic."""
    return _scenes(VALIDATION_SEEDS, n, start)


def training_scene_seed(seed: int, phase: str, index: int) -> int:
    """Return the scene seed of image `index` in a phase of the training run `seed`."""
    half = _BLOCK // len(PHASES)
    if not 0 <= seed < len(TRAINING_SEEDS) // _BLOCK or not 0 <= index < half:
        raise ValueError(
            f"training seed {seed}, image {index}: expected a seed below {len(TRAINING_SEEDS) // _BLOCK} "
            f"and an image number below {half}"
        )
    return TRAINING_SEEDS[seed * _BLOCK + PHASES.index(phase) * half + index]
