# SPDX-License-Identifier: Apache-2.0
"""Phase 2: projector and language model on questions, behind the frozen tower.

Every picture is seen whole: the model never meets pruned input, so its training favours no pruning method.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from tokenprune_bench.scenes.splits import scene_from_seed, training_scene_seed, validation_scenes
from tokenprune_bench.training.accuracy import exact_match
from tokenprune_bench.training.architecture import pixel_values, visual_features
from tokenprune_bench.training.log import TrainingLog
from tokenprune_bench.training.optimiser import Optimiser, split_parameters
from tokenprune_bench.training.packed_logits import answer_logits
from tokenprune_bench.training.packing import pack

BATCH = 16
MUON_RATE = 0.02
_N_VALIDATION = 96


@torch.no_grad()
def _whiten_projector_input(model: LlavaForConditionalGeneration, seed: int) -> None:
    """Fold the features' mean and spread into the projector's first layer: some channels are far larger."""
    scenes = [scene_from_seed(training_scene_seed(seed, "tower", i))[0] for i in range(64)]
    features = visual_features(model, pixel_values(np.stack([scene.image for scene in scenes]))).flatten(0, 1)
    first = model.model.multi_modal_projector.linear_1
    first.weight.div_(features.std(0))
    first.bias.sub_(first.weight @ features.mean(0))


def train_language(model: LlavaForConditionalGeneration, seed: int, n_images: int, log: TrainingLog) -> None:
    """Train the projector and the language model on `n_images` scenes of the training range."""
    model.model.vision_tower.requires_grad_(False)
    _whiten_projector_input(model, seed)
    hidden, other = split_parameters(model.model.language_model)
    optimiser = Optimiser(
        hidden,
        [*other, *model.lm_head.parameters()],
        model.model.multi_modal_projector.parameters(),
        muon_lr=MUON_RATE,
        adam_lr=3e-3,
        projector_lr=2e-3,
        projector_decay=0.1,
    )
    n_steps = max(1, n_images // BATCH)
    for step in range(n_steps):
        seeds = [training_scene_seed(seed, "language", step * BATCH + i) for i in range(BATCH)]
        scenes, questions = zip(*map(scene_from_seed, seeds), strict=True)
        packed = pack(questions)
        pixels = pixel_values(np.stack([scene.image for scene in scenes]))
        with torch.autocast("cpu", torch.bfloat16):
            logits = answer_logits(model, pixels, packed)
        loss = F.cross_entropy(logits.float(), packed.labels[packed.is_answer])
        optimiser.step(loss, step / n_steps)
        log.step("language", step + 1, (step + 1) * BATCH, loss.item())
        if log.is_due(step + 1, n_steps):
            log.validation(exact_match(model, validation_scenes(_N_VALIDATION)))
