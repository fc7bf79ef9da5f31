# SPDX-License-Identifier: Apache-2.0
"""The embedded model, three of its scenes, and a tiny LLaVA with its processor."""

import functools

import pytest
import tiny_models
import tiny_processors
import torch
from PIL import Image
from tokenprune_embedded import held_out_scenes, load_embedded_model

import tokenprune


@pytest.fixture
def no_gradients():
    with torch.no_grad():
        yield


@functools.cache
def _embedded():
    return load_embedded_model()


@functools.cache
def _tiny():
    return tiny_models.llava(), tiny_processors.llava()


@pytest.fixture
def embedded():
    """The trained model and its processor, never left pruned."""
    yield _embedded()
    assert not tokenprune.is_pruned(_embedded()[0])


@pytest.fixture
def tiny():
    """A tiny LLaVA of random weights and its processor, never left pruned."""
    yield _tiny()
    assert not tokenprune.is_pruned(_tiny()[0])


@pytest.fixture
def scenes():
    """Pictures and questions: their prompts are of unequal lengths."""
    scenes = list(held_out_scenes(3))
    pictures = [Image.fromarray(scene.image) for scene, _ in scenes]
    return pictures, [questions[0].text for _, questions in scenes]
