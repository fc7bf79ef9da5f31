# SPDX-License-Identifier: Apache-2.0
"""Scenes and their questions as batches of model inputs."""

from itertools import islice

import numpy as np
from PIL import Image
from tokenprune_cli.evaluation import Batch, tokenized


def make_batches(processor, scenes, size=64):
    """Batches of `size` questions about some scenes, padded on the left."""
    pairs = ((i, q, scene.image) for i, (scene, questions) in enumerate(scenes) for q in questions)
    batches = []
    while chunk := list(islice(pairs, size)):
        images = [Image.fromarray(np.asarray(image)) for _, _, image in chunk]
        inputs = tokenized(processor, images, [question.text for _, question, _ in chunk])
        batches.append(Batch(tuple((i, question) for i, question, _ in chunk), inputs))
    return batches
