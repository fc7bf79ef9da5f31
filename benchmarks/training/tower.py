# SPDX-License-Identifier: Apache-2.0
"""Phase 1: train the vision tower on local labels of each patch, without the language model."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from benchmarks.scenes.palette import COLOR_NAMES, SHAPE_NAMES
from benchmarks.scenes.patch_labels import (
    GRID_SIDE,
    N_PATCHES,
    N_SUMMARY,
    OCCUPANCY_SIDE,
    PatchLabels,
    label_patches,
)
from benchmarks.scenes.splits import VALIDATION_SEEDS, scene_from_seed, training_scene_seed
from benchmarks.training.architecture import pixel_values
from benchmarks.training.log import TrainingLog
from benchmarks.training.optimiser import Optimiser, schedule, split_parameters

BATCH = 16
_OCCUPANCY_LAYER = 2  # an early layer, so that shape is first computed within the patch
_N_VALIDATION = 192
# Rows and columns are labels too: "where is" needs tokens that encode their position, whichever are kept.
_CLASSES = {
    "color": len(COLOR_NAMES) + 1,
    "shape": len(SHAPE_NAMES) + 1,
    "tens": 11,
    "units": 11,
    "sign": 3,
    "row": GRID_SIDE,
    "column": GRID_SIDE,
}
_WEIGHT = {"shape": 2.0, "row": 0.5, "column": 0.5}
Labels = dict[str, torch.Tensor]


class _Heads(nn.Module):
    """Linear heads on the tower, discarded after the phase."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch_norm = nn.LayerNorm(width)
        self.patch_head = nn.Linear(width, sum(_CLASSES.values()) + 3)
        self.early_norm = nn.LayerNorm(width)
        self.early_head = nn.Linear(width, OCCUPANCY_SIDE**2)
        self.class_norm = nn.LayerNorm(width)
        self.class_head = nn.Linear(width, N_SUMMARY)
        self.last_class_head = nn.Linear(width, N_SUMMARY)

    def forward(self, tower: nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        out = tower(pixels, output_hidden_states=True)
        used = out.hidden_states[-2]
        parts = self.patch_head(self.patch_norm(used[:, 1:])).split([*_CLASSES.values(), 1, 2], -1)
        read = dict(zip([*_CLASSES, "center", "offset"], parts, strict=True))
        read["occupancy"] = self.early_head(self.early_norm(out.hidden_states[_OCCUPANCY_LAYER][:, 1:]))
        read["summary"] = self.class_head(self.class_norm(used[:, 0]))
        read["last_summary"] = self.last_class_head(out.pooler_output)
        return read


def _batch(seeds: list[int]) -> tuple[torch.Tensor, Labels]:
    scenes = [scene_from_seed(seed)[0] for seed in seeds]
    labelled = [label_patches(scene) for scene in scenes]
    labels = {
        f.name: torch.from_numpy(np.stack([getattr(patches, f.name) for patches in labelled]))
        for f in fields(PatchLabels)
    }
    place = torch.arange(N_PATCHES).expand(len(scenes), -1)
    labels["row"], labels["column"] = place // GRID_SIDE, place % GRID_SIDE
    return pixel_values(np.stack([scene.image for scene in scenes])), labels


def _loss(read: dict[str, torch.Tensor], labels: Labels) -> torch.Tensor:
    on_object = (labels["color"] > 0).float()
    on_digit = ((labels["tens"] > 0) | (labels["units"] > 0)).float()
    on_sign = (labels["sign"] > 0).float()
    weights = {"tens": 0.1 + 0.9 * on_digit, "units": 0.1 + 0.9 * on_digit, "sign": 0.1 + 0.9 * on_sign}
    object_weight = 0.25 + 0.75 * on_object  # most patches show nothing
    total = torch.zeros(())
    for name in _CLASSES:
        weight = weights.get(name, object_weight)
        loss = F.cross_entropy(read[name].transpose(1, 2), labels[name], reduction="none")
        total = total + _WEIGHT.get(name, 1.0) * (loss * weight).sum() / weight.sum()
    center = F.binary_cross_entropy_with_logits(read["center"][..., 0], labels["center"], reduction="none")
    total = total + 2 * (center * object_weight).sum() / object_weight.sum()
    distance = (read["offset"] - labels["offset"]).abs().sum(-1)
    total = total + (distance * on_object).sum() / on_object.sum()
    occupied = 0.25 + 0.75 * (labels["occupancy"].amax(-1, keepdim=True) > 0)
    filled = F.binary_cross_entropy_with_logits(read["occupancy"], labels["occupancy"], reduction="none")
    total = total + 2 * (filled * occupied).sum() / occupied.sum() / OCCUPANCY_SIDE**2
    for name in ("summary", "last_summary"):
        total = total + 2.5 * F.binary_cross_entropy_with_logits(read[name], labels["summary"])
    return total


@torch.no_grad()
def _accuracy(heads: _Heads, tower: nn.Module, pixels: torch.Tensor, labels: Labels) -> dict[str, float]:
    read = heads(tower, pixels)
    figures = {}
    for name in _CLASSES:
        where = labels[name] > 0 if name not in ("row", "column") else labels["color"] > 0
        figures[name] = (read[name].argmax(-1) == labels[name])[where].float().mean().item()
    figures["background"] = (read["color"].argmax(-1) == 0)[labels["color"] == 0].float().mean().item()
    for name, guess, truth in (
        ("center", read["center"][..., 0] > 0, labels["center"] > 0),
        ("summary", read["summary"] > 0, labels["summary"] > 0),
    ):
        figures[name + "_f1"] = (2 * (guess & truth).sum() / (guess.sum() + truth.sum())).item()
    return {name: round(value, 3) for name, value in figures.items()}


def train_tower(model: LlavaForConditionalGeneration, seed: int, n_images: int, log: TrainingLog) -> None:
    """Train the model's vision tower on `n_images` training scenes."""
    tower = model.model.vision_tower
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        heads = _Heads(tower.config.hidden_size)
    hidden, other = split_parameters(tower, heads)
    optimiser = Optimiser(hidden, other, muon_lr=0.02, adam_lr=3e-3)
    validation = _batch(list(VALIDATION_SEEDS[:_N_VALIDATION]))
    n_steps = max(1, n_images // BATCH)
    for step in range(n_steps):
        pixels, labels = _batch([training_scene_seed(seed, "tower", step * BATCH + i) for i in range(BATCH)])
        loss = _loss(heads(tower, pixels), labels)
        optimiser.step(loss, schedule(step / n_steps, floor=0.01))
        log.step("tower", step + 1, (step + 1) * BATCH, loss.item())
        if log.is_due(step + 1, n_steps):
            log.validation(_accuracy(heads, tower, *validation))
