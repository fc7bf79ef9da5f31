# SPDX-License-Identifier: Apache-2.0
"""Phase 2: train projector and language model on questions, with a frozen tower.

The model is trained on unpruned images only, so that training favours no pruning method.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from benchmarks.scenes.questions import ask
from benchmarks.scenes.scene import draw_scene
from benchmarks.scenes.splits import training_scene_seed, validation_scenes
from benchmarks.training.accuracy import exact_match
from benchmarks.training.alignment import PROJECTOR_DECAY, PROJECTOR_RATE
from benchmarks.training.architecture import LAYER_STRIDE, pixel_values
from benchmarks.training.log import TrainingLog
from benchmarks.training.optimiser import Optimiser, schedule, split_parameters
from benchmarks.training.packed_logits import answer_logits
from benchmarks.training.packing import PackedQuestions, pack

BATCH = 16
_N_VALIDATION = 96
# More questions per image than in the held-out set: they add no cost for visual tokens.
_QUESTIONS = {"attribute": 4, "existence": 5, "counting": 8, "spatial": 5, "reading": 4}


@dataclass(frozen=True)
class _Stage:
    """A stage of the phase: its share of the images, the layers it runs, its peak and final learning rates.

    `two_signs_every`: every n-th scene has two signs; 0 leaves the number of signs random.
    """

    share: float
    layer_stride: int
    peak: float
    floor: float
    two_signs_every: int


# A third of the layers learns the task at a third of the cost. The others are identities until the second
# stage, which therefore starts where the first one ended (progressive stacking, Gong et al., ICML 2019).
# Distinguishing two signs is learned last and rarely asked, so the second stage has more such scenes.
_STAGES = (
    _Stage(13 / 17, layer_stride=LAYER_STRIDE, peak=1.0, floor=0.1, two_signs_every=0),
    _Stage(4 / 17, layer_stride=1, peak=0.5, floor=0.01, two_signs_every=2),
)


@contextmanager
def _running_every(language: Any, stride: int) -> Iterator[None]:
    whole = language.layers
    language.layers = whole[::stride]
    try:
        yield
    finally:
        language.layers = whole


def _batch(seed: int, first: int, two_signs_every: int) -> tuple[torch.Tensor, PackedQuestions]:
    numbers = range(first, first + BATCH)
    rngs = [np.random.default_rng(training_scene_seed(seed, "language", number)) for number in numbers]
    n_signs = [2 if two_signs_every and number % two_signs_every == 0 else None for number in numbers]
    scenes = [draw_scene(rng, n) for rng, n in zip(rngs, n_signs, strict=True)]
    packed = pack([ask(rng, scene, _QUESTIONS) for rng, scene in zip(rngs, scenes, strict=True)])
    return pixel_values(np.stack([scene.image for scene in scenes])), packed


def _train_stage(
    model: LlavaForConditionalGeneration, seed: int, images: range, stage: _Stage, log: TrainingLog
) -> None:
    hidden, other = split_parameters(model.model.language_model)
    optimiser = Optimiser(
        hidden,
        [*other, *model.lm_head.parameters()],
        model.model.multi_modal_projector.parameters(),
        muon_lr=0.02,
        adam_lr=3e-3,
        projector_lr=PROJECTOR_RATE,
        projector_decay=PROJECTOR_DECAY,
    )
    n_steps = max(1, len(images) // BATCH)
    for step in range(n_steps):
        pixels, packed = _batch(seed, images.start + step * BATCH, stage.two_signs_every)
        with torch.autocast("cpu", torch.bfloat16):
            logits = answer_logits(model, pixels, packed)
        loss = F.cross_entropy(logits.float(), packed.labels[packed.is_answer])
        optimiser.step(loss, stage.peak * schedule(step / n_steps, floor=stage.floor))
        log.step("language", step + 1, images.start + (step + 1) * BATCH, loss.item())
        if log.is_due(step + 1, n_steps):
            log.validation(exact_match(model, validation_scenes(_N_VALIDATION)))


def train_language(model: LlavaForConditionalGeneration, seed: int, n_images: int, log: TrainingLog) -> None:
    """Train the projector and the language model on `n_images` training scenes."""
    model.model.vision_tower.requires_grad_(False)
    first = 0
    for stage in _STAGES:
        images = range(first, first + round(stage.share * n_images / BATCH) * BATCH)
        with _running_every(model.model.language_model, stage.layer_stride):
            _train_stage(model, seed, images, stage, log)
        first = images.stop
