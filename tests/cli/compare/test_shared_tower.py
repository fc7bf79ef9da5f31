# SPDX-License-Identifier: Apache-2.0
"""The tower runs once for all methods, and nothing but the time it takes tells the difference."""

import inspect

import pytest
import tiny_models
import tiny_processors
import torch
from scene_batches import make_batches
from tokenprune_evaluation.answering import answer_batch
from tokenprune_evaluation.prompts import tokenized
from tokenprune_evaluation.settings import UNPRUNED, Setting
from tokenprune_evaluation.shared_tower import shared_tower

METHODS = ("zoo-exact", "zoo-prune", "visionzip", "visionzip-received", "vispruner", "fastv", "sparsevlm")
SETTINGS = (UNPRUNED, *(Setting(method, 20) for method in METHODS))


@pytest.fixture(scope="module")
def batch(untrained_model, scenes):
    return make_batches(untrained_model[1], scenes[:1], 6)[0]


def answers(untrained_model, batch, setting):
    model, processor = untrained_model
    with setting.applied(model) as handle:
        found = answer_batch(model, processor, batch, handle, setting)
        scores = None if handle is None else [image.scores for image in handle.last.images]
    return found, scores


def test_all_methods_answer_bit_by_bit_as_without_sharing(untrained_model, batch):
    alone = [answers(untrained_model, batch, setting) for setting in SETTINGS]
    with shared_tower(untrained_model[0]) as memory:
        together = [answers(untrained_model, batch, setting) for setting in SETTINGS]
        assert memory.n_runs == 1
    for (ours, our_scores), (theirs, their_scores) in zip(together, alone, strict=True):
        assert ours == theirs
        for a, b in zip(our_scores or (), their_scores or (), strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("method", ["tower-diverse", "hiprune"])
def test_methods_inside_the_tower_do_not_share_it(method, untrained_model, batch):
    """Rows left by a cut are its own, and attention is observed in other blocks than for other methods."""
    settings = (UNPRUNED, Setting(method, 36), Setting("divprune", 36), Setting(method, 18))
    alone = [answers(untrained_model, batch, setting)[0] for setting in settings]
    with shared_tower(untrained_model[0]):
        assert [answers(untrained_model, batch, setting)[0] for setting in settings] == alone


@pytest.mark.parametrize("family", ["llava_next", "qwen"])
def test_other_families_answer_the_same_too(family):
    model, processor = getattr(tiny_models, family)(), getattr(tiny_processors, family)()
    images = [tiny_processors.noise(*size, seed=1) for size in ((40, 60), (64, 32))]
    questions = ["what is in this picture ?", "what is before ?"]
    batch = tokenized(processor, images, questions)
    settings = (UNPRUNED, *(Setting(method, 6) for method in ("zoo-exact", "visionzip-received", "fastv")))
    alone = [answers((model, processor), batch, setting)[0] for setting in settings]
    with shared_tower(model) as memory:
        assert [answers((model, processor), batch, setting)[0] for setting in settings] == alone
        assert memory.n_runs <= (1 if family == "llava_next" else 3)


def test_other_pictures_run_the_tower_again(untrained_model, batch, scenes):
    model, processor = untrained_model
    other = make_batches(processor, scenes[1:2], 6)[0]
    with shared_tower(model) as memory:
        for one in (batch, batch, other, other, batch):
            answers(untrained_model, one, UNPRUNED)
        assert memory.n_runs == 3
        answers(untrained_model, batch, Setting("downsample", 36))
        assert memory.n_runs == 4


def test_whoever_listens_inside_the_tower_hears_it_run(untrained_model, batch):
    model, heard = untrained_model[0], []
    inside = model.model.vision_tower.encoder.layers[1].mlp
    with shared_tower(model) as memory:
        answers(untrained_model, batch, UNPRUNED)
        hook = inside.register_forward_hook(lambda *_: heard.append(1))
        answers(untrained_model, batch, UNPRUNED)
        hook.remove()
        assert (memory.n_runs, len(heard)) == (2, 1)


def test_nothing_stays_on_the_model(untrained_model):
    tower = untrained_model[0].model.vision_tower
    before = inspect.signature(tower.forward)
    with shared_tower(untrained_model[0]):
        assert inspect.signature(tower.forward) == before
    assert "forward" not in vars(tower)
