# SPDX-License-Identifier: Apache-2.0
"""Scenes and their questions as batches of model inputs, and the answers to them."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from tokenprune_embedded import Question
from tokenprune_evaluation.answering import Answered, answer_batch
from tokenprune_evaluation.prompts import tokenized
from tokenprune_evaluation.settings import UNPRUNED


@dataclass(frozen=True)
class SceneAnswer:
    """An answer to a question about scene number `scene`."""

    scene: int
    question: Question
    answered: Answered

    @property
    def is_right(self):
        """Whether the decoded text is exactly the right answer."""
        return self.answered.text == self.question.answer


def make_batches(processor, scenes, size=64):
    """Batches of `size` questions about some scenes, padded on the left."""
    pairs = [(Image.fromarray(np.asarray(scene.image)), q.text) for scene, qs in scenes for q in qs]
    chunks = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    return [tokenized(processor, *map(list, zip(*chunk, strict=True))) for chunk in chunks]


def answer_scenes(model, processor, scenes, setting=UNPRUNED, seed=0, size=64, batches=None):
    """Answers to all questions about some scenes under a setting; `batches`, if they are made already."""
    batches = batches or make_batches(processor, scenes, size)
    with setting.applied(model, seed) as handle:
        answers = [a for batch in batches for a in answer_batch(model, processor, batch, handle, setting)]
    questions = [(i, question) for i, (_, questions) in enumerate(scenes) for question in questions]
    return [SceneAnswer(*question, a) for question, a in zip(questions, answers, strict=True)]
