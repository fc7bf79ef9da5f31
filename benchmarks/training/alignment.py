# SPDX-License-Identifier: Apache-2.0
"""Between the phases: align the projector, as in LLaVA, so that visual tokens express what each patch shows.

The target of a visual token is the sum of the embeddings of the words that apply to its patch, in the visual
dialect: colour, shape, digit and its position in the number, sign, and the third of the image that contains
the patch. An object is counted at its centre: only that patch has the words "objects" and the shape's plural.
The language model is not used.
"""

from __future__ import annotations

import numpy as np
import torch
from transformers import LlavaForConditionalGeneration

from benchmarks.scenes.palette import COLOR_NAMES, PLURALS, SHAPE_NAMES
from benchmarks.scenes.patch_labels import GRID_SIDE, N_PATCHES, PatchLabels, label_patches
from benchmarks.scenes.questions import COLUMN_WORDS, ROW_WORDS
from benchmarks.scenes.splits import scene_from_seed, training_scene_seed
from benchmarks.scenes.vocabulary import CONTINUATION, WORD_ID
from benchmarks.training.architecture import pixel_values, visual_dialect, visual_features
from benchmarks.training.log import TrainingLog
from benchmarks.training.optimiser import schedule

PROJECTOR_RATE, PROJECTOR_DECAY = 2e-3, 0.1
_ALIGNMENT_RATE = 4e-3
_EPOCHS = 3
_BATCH_TOKENS = 2048
_BATCH_IMAGES = 32
_DIGITS = tuple("0123456789")


def _words_of_patches(labels: PatchLabels) -> torch.Tensor:
    """Return which words apply to each patch, (N, vocabulary), 0 or 1."""
    applies = np.zeros((N_PATCHES, len(WORD_ID)), np.float32)
    patch = np.arange(N_PATCHES)
    evidence = (  # class of each patch, from 0, and the word of each class
        (labels.color, (None, *COLOR_NAMES)),
        (labels.shape, (None, *SHAPE_NAMES)),
        (labels.shape * (labels.center > 0), (None, *PLURALS.values())),
        (labels.center > 0, (None, "objects")),
        (labels.tens, (None, *_DIGITS)),
        (labels.tens > 0, (None, "first")),
        (labels.units, (None, *(CONTINUATION + digit for digit in _DIGITS))),
        (labels.units > 0, (None, "last")),
        (labels.sign, (None, "light", "dark")),
        (labels.sign > 0, (None, "sign")),
        (patch // GRID_SIDE * len(ROW_WORDS) // GRID_SIDE, ROW_WORDS),
        (patch % GRID_SIDE * len(COLUMN_WORDS) // GRID_SIDE, COLUMN_WORDS),
    )
    for value, words in evidence:
        for number, word in enumerate(words):
            if word is not None:
                applies[value == number, WORD_ID[word]] = 1
    return torch.from_numpy(applies)


@torch.no_grad()
def _evidence(
    model: LlavaForConditionalGeneration, seed: int, n_images: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return features (M, D), word targets (M, width) and weights (M, 1) of the patches of n scenes."""
    features, words = [], []
    for start in range(0, n_images, _BATCH_IMAGES):
        numbers = range(start, min(start + _BATCH_IMAGES, n_images))
        scenes = [scene_from_seed(training_scene_seed(seed, "tower", i))[0] for i in numbers]
        features.append(
            visual_features(model, pixel_values(np.stack([s.image for s in scenes]))).flatten(0, 1)
        )
        words.append(torch.cat([_words_of_patches(label_patches(scene)) for scene in scenes]))
    applies = torch.cat(words)
    weight = torch.where(applies.sum(1, keepdim=True) > 2, 1.0, 0.25)  # most patches have only a position
    embeddings = model.model.language_model.embed_tokens.weight
    return torch.cat(features), applies @ embeddings @ visual_dialect(embeddings.shape[1]).T, weight


def align_projector(model: LlavaForConditionalGeneration, seed: int, n_images: int, log: TrainingLog) -> None:
    """Train the projector, with AdamW and weight decay, on patches of the first `n_images` tower scenes."""
    projector = model.model.multi_modal_projector
    features, target, weight = _evidence(model, seed, n_images)
    with torch.no_grad():  # standardise features first: some channels are far larger than others
        projector.linear_1.weight.div_(features.std(0))
        projector.linear_1.bias.sub_(projector.linear_1.weight @ features.mean(0))
    optimiser = torch.optim.AdamW(projector.parameters(), lr=_ALIGNMENT_RATE, weight_decay=PROJECTOR_DECAY)
    order = torch.Generator().manual_seed(seed)
    batches = [
        batch
        for _ in range(_EPOCHS)
        for batch in torch.split(torch.randperm(len(features), generator=order), _BATCH_TOKENS)
    ]
    for step, batch in enumerate(batches):
        optimiser.param_groups[0]["lr"] = _ALIGNMENT_RATE * schedule(step / len(batches), floor=0.01)
        error = (projector(features[batch]) - target[batch]).square()
        loss = (error * weight[batch]).mean() / target.square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        log.step("alignment", step + 1, n_images, loss.item())
    log.validation({})
