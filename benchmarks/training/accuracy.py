# SPDX-License-Identifier: Apache-2.0
"""Compute exact-match accuracy with all visual tokens by teacher forcing.

The results equal those of greedy generation: a greedy answer is correct exactly if, given the correct words
so far, every next word is the most likely one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice

import numpy as np
import torch
from tokenprune_embedded import FAMILIES, Question
from transformers import LlavaForConditionalGeneration

from benchmarks.scenes.scene import Scene
from benchmarks.training.architecture import pixel_values
from benchmarks.training.packed_logits import answer_logits
from benchmarks.training.packing import pack

_BATCH = 32


@torch.no_grad()
def verdicts(
    model: LlavaForConditionalGeneration, scenes: Iterable[tuple[Scene, list[Question]]]
) -> list[tuple[Question, bool]]:
    """Return every question with whether the model answers it correctly, in the order of the scenes."""
    judged = []
    remaining = iter(scenes)
    while chunk := list(islice(remaining, _BATCH)):
        packed = pack([questions for _, questions in chunk])
        pixels = pixel_values(np.stack([scene.image for scene, _ in chunk]))
        logits = answer_logits(model, pixels, packed)
        wrong = torch.zeros(packed.labels.shape, dtype=torch.bool)
        wrong[packed.is_answer] = logits.argmax(-1) != packed.labels[packed.is_answer]
        for row, (_, questions) in enumerate(chunk):
            missed = set(packed.question[row][wrong[row]].tolist())
            judged += [(question, i not in missed) for i, question in enumerate(questions, start=1)]
    return judged


def exact_match(
    model: LlavaForConditionalGeneration, scenes: Iterable[tuple[Scene, list[Question]]]
) -> dict[str, float]:
    """Return the percentage of correct answers per family and overall, and the number of questions."""
    total, right = Counter[str](), Counter[str]()
    for question, is_right in verdicts(model, scenes):
        for name in (question.family, "overall"):
            total[name] += 1
            right[name] += is_right
    figures = {
        name: round(100 * right[name] / total[name], 2) for name in (*FAMILIES, "overall") if total[name]
    }
    return {**figures, "questions": total["overall"]}
