# SPDX-License-Identifier: Apache-2.0
"""Answering in batches: the same as one question after the other, pruned and unpruned."""

import pytest
import torch
from PIL import Image
from scene_batches import answer_scenes, make_batches
from tokenprune_evaluation.answering import answer_batch
from tokenprune_evaluation.costs import kv_cache_bytes
from tokenprune_evaluation.prompts import question_prompt, tokenized
from tokenprune_evaluation.settings import UNPRUNED, Setting, refusal
from tokenprune_visualize import seen_image

import tokenprune

N, LAYERS = 144, 12


def answers(untrained_model, scenes, setting, size=64):
    return [answer.answered for answer in answer_scenes(*untrained_model, scenes, setting, size=size)]


def test_every_question_is_answered_in_order(untrained_model, scenes):
    texts = [a.text for a in answers(untrained_model, scenes, UNPRUNED)]
    found = answers(untrained_model, scenes, UNPRUNED, size=5)
    assert [a.text for a in found] == texts and len(texts) == sum(len(questions) for _, questions in scenes)
    assert all(a.kept is None and a.n_visual == a.n_visual_before == N for a in found)


@pytest.mark.parametrize("setting", [UNPRUNED, Setting("zoo-exact", 20), Setting("fastv", 20)], ids=str)
def test_a_batch_answers_as_each_question_alone(untrained_model, scenes, setting):
    together = answers(untrained_model, scenes[:1], setting)
    alone = answers(untrained_model, scenes[:1], setting, size=1)
    assert [(a.text, a.kept, a.rows) for a in together] == [(a.text, a.kept, a.rows) for a in alone]


def test_the_text_is_what_generate_decodes(untrained_model, scenes):
    model, processor = untrained_model
    scene, questions = scenes[0]
    inputs = tokenized(processor, [Image.fromarray(scene.image)], [questions[0].text])
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    text = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answers(untrained_model, scenes[:1], UNPRUNED)[0].text == text.strip()


def test_what_was_kept_is_written_down(untrained_model, scenes):
    model, processor = untrained_model
    found = answers(untrained_model, scenes[:1], Setting("divprune", 20), size=1)[0]
    assert len(found.kept) == found.n_visual == 20
    assert list(found.kept) == sorted(set(found.kept)) and 0 <= found.kept[0] and found.kept[-1] < N
    question = scenes[0][1][0].text
    n_text = len(processor.tokenizer(question_prompt(processor, question)).input_ids) - 1
    assert found.rows == (n_text + 20,) * LAYERS
    assert found.kv_bytes == kv_cache_bytes(model.config.text_config, n_text + 20, 4)


def test_rows_follow_a_cut_inside_the_language_model(untrained_model, scenes):
    found = answers(untrained_model, scenes[:1], Setting("fastv", 20), size=1)[0]
    assert found.n_visual == 20
    assert found.rows[0] - found.rows[-1] == N - 20
    assert sorted(found.rows, reverse=True) == list(found.rows)


def test_unpruned_cache_bytes_are_those_the_reports_compare_with(untrained_model, scenes):
    model, processor = untrained_model
    with tokenprune.apply(model, method="stride", keep=20) as handle:
        batch = make_batches(processor, scenes[:1])[0]
        answer_batch(model, processor, batch, handle)
        unpruned = handle.last.kv_bytes_unpruned
    total = sum(a.kv_bytes for a in answers(untrained_model, scenes[:1], UNPRUNED))
    assert total == pytest.approx(unpruned)


def test_keeping_everything_answers_as_unpruned(untrained_model, scenes):
    all_kept = answers(untrained_model, scenes[:1], Setting("zoo-exact", N))
    assert all_kept == answers(untrained_model, scenes[:1], UNPRUNED)


def test_rows_are_padded_on_the_left(untrained_model, scenes):
    _, processor = untrained_model
    mask = make_batches(processor, scenes[:1])[0]["attention_mask"]
    assert mask[:, -1].all()
    assert not mask[:, 0].all()


def test_a_setting_leaves_the_model_unpruned(untrained_model):
    model, _ = untrained_model
    with Setting("random", 3).applied(model) as handle:
        assert tokenprune.is_pruned(model) and handle.is_active
    assert not tokenprune.is_pruned(model)
    with UNPRUNED.applied(model) as handle:
        assert handle is None and not tokenprune.is_pruned(model)


def test_a_refusal_says_what_is_missing(untrained_model):
    model, _ = untrained_model
    assert refusal(model, Setting("zoo-prune", 9)) is None
    assert "clip_text_embeds" in refusal(model, Setting("cdpruner", 9))
    assert not tokenprune.is_pruned(model)


def test_the_seen_image_is_the_scene(untrained_model, scenes):
    _, processor = untrained_model
    scene = scenes[0][0]
    inputs = tokenized(processor, [Image.fromarray(scene.image)], ["how many stars ?"])
    seen = torch.tensor(list(seen_image(processor.image_processor, inputs["pixel_values"][0]).tobytes()))
    assert (seen - torch.tensor(scene.image.copy()).flatten()).abs().max() <= 1
