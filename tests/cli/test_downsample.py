# SPDX-License-Identifier: Apache-2.0
"""A smaller picture through the same tower, on a tiny LLaVA."""

import numpy as np
import pytest
import tiny_models
import torch
from scene_batches import make_batches
from tokenprune_cli.compare.answers import AnswerOptions, Run, answer_all
from tokenprune_cli.compare.collected import collect
from tokenprune_cli.demo.pictures import example_sheet
from tokenprune_evaluation.answering import answer_batch
from tokenprune_evaluation.costs import kv_cache_bytes
from tokenprune_evaluation.downsample import downsample, grid_side, interpolated_positions
from tokenprune_evaluation.question_set import embedded_scenes
from tokenprune_evaluation.settings import UNPRUNED, Setting, known_method, refusal

import tokenprune


def test_the_grid_is_the_largest_square_within_the_budget():
    assert [grid_side(keep) for keep in (1, 3, 4, 8, 9, 15, 16)] == [1, 1, 2, 2, 3, 3, 4]


def test_placeholders_pixels_and_padding():
    inputs = tiny_models.llava_inputs((3, "I", 5), (2, "I", 4, "I", 3), (6,))
    small = downsample(inputs, tiny_models.IMAGE, 8, 5)
    assert small["pixel_values"].shape == (3, 3, 16, 16)
    assert (small["input_ids"] == tiny_models.IMAGE).sum(1).tolist() == [4, 8, 0]
    for row in range(3):
        before, after = (i["input_ids"][row][i["attention_mask"][row].bool()] for i in (inputs, small))
        assert after[after != tiny_models.IMAGE].tolist() == before[before != tiny_models.IMAGE].tolist()
        assert small["attention_mask"][row].tolist() == sorted(small["attention_mask"][row].tolist())


def test_a_flat_picture_stays_flat_and_the_full_budget_changes_nothing():
    inputs = tiny_models.llava_inputs((3, "I", 5))
    flat = {**inputs, "pixel_values": torch.full((1, 3, 32, 32), 0.25)}
    small = downsample(flat, tiny_models.IMAGE, 8, 4)["pixel_values"]
    torch.testing.assert_close(small, torch.full((1, 3, 16, 16), 0.25))
    whole = downsample(inputs, tiny_models.IMAGE, 8, 16)
    assert all(torch.equal(whole[name], inputs[name]) for name in inputs)


@pytest.mark.parametrize("keep", [4, 9])
@torch.no_grad()
def test_the_model_runs_on_it_and_is_left_as_it_was(keep):
    model = tiny_models.llava()
    inputs = tiny_models.llava_inputs((3, "I", 5), (2, "I", 4))
    before = model(**inputs).logits
    small = downsample(inputs, tiny_models.IMAGE, 8, keep)
    with interpolated_positions(model):
        out = model.generate(**small, max_new_tokens=3, do_sample=False)
        assert torch.isfinite(model(**small).logits).all()
    assert out.shape[1] == small["input_ids"].shape[1] + 3
    assert torch.equal(model(**inputs).logits, before)


@pytest.mark.parametrize(("keep", "seen"), [(36, 36), (18, 16), (9, 9)])
def test_it_takes_part_like_a_method(untrained_model, scenes, keep, seen):
    """What is counted is what a question costs: rows, cache bytes and operations of the smaller prompt."""
    model, processor = untrained_model
    (batch,) = make_batches(processor, scenes[:1])
    setting = Setting("downsample", keep)
    assert refusal(model, setting) is None
    with setting.applied(model) as handle:
        assert handle is None
        answers = answer_batch(model, processor, batch, handle, setting)
    config = model.config.text_config
    lengths = batch["attention_mask"].sum(1) - 144 + seen
    for answered, length in zip(answers, lengths.tolist(), strict=True):
        assert (answered.n_visual, answered.n_visual_before, answered.kept) == (seen, 144, None)
        assert answered.rows == (length,) * config.num_hidden_layers
        assert answered.kv_bytes == kv_cache_bytes(config, int(lengths.max()), 4)


def test_it_answers_what_the_model_answers_to_the_smaller_picture(untrained_model, scenes):
    model, processor = untrained_model
    (batch,) = make_batches(processor, scenes[:1])
    small = downsample(batch, model.config.image_token_id, 8, 36)
    with interpolated_positions(model), torch.no_grad():
        ids = model.generate(**small, max_new_tokens=6, do_sample=False)[:, small["input_ids"].shape[1] :]
    want = [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]
    setting = Setting("downsample", 36)
    with setting.applied(model):
        assert [a.text for a in answer_batch(model, processor, batch, None, setting)] == want


def test_its_picture_is_the_coarser_one(untrained_model):
    questions, shown = embedded_scenes(1), (UNPRUNED, Setting("downsample", 9))
    run = Run(*untrained_model, questions, AnswerOptions(64, 2, 0))
    lines = answer_all(run, shown, lambda *_: None)
    sheet = example_sheet(questions, collect(list(lines)), {setting.label: setting for setting in shown})
    assert sheet.width > 2 * 12 * 13 and sheet.height > 12 * 13
    whole, coarse = (  # how much neighbouring pixels differ
        np.abs(np.diff(np.asarray(sheet)[30:170, start : start + 12 * 13].astype(float), axis=1)).mean()
        for start in (12, sheet.width // 2 + 6)
    )
    assert 0 < coarse < 0.8 * whole


def test_models_that_take_no_single_square_picture_are_refused():
    assert "fixed square grid" in refusal(tiny_models.llava_next(), Setting("downsample", 9))
    assert "fixed square grid" in refusal(tiny_models.qwen(), Setting("downsample", 9))


def test_names():
    assert known_method("downsample") == "downsample"
    assert known_method("fastv") == "fastv"
    with pytest.raises(tokenprune.UnknownNameError, match="fastv"):
        known_method("fastw")
