# SPDX-License-Identifier: Apache-2.0
"""The embedded model: loads with stock transformers, prompts as in training, answers as its card says."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from tokenprune_embedded import embedded_model_path, load_embedded_model
from transformers import AutoProcessor, LlavaForConditionalGeneration

from benchmarks.scenes import FAMILIES, held_out_scenes
from benchmarks.scenes.patch_labels import N_PATCHES
from benchmarks.scenes.splits import scene_from_seed
from benchmarks.scenes.vocabulary import (
    ASSISTANT,
    BOS,
    EOS,
    IMAGE,
    USER,
    VOCABULARY,
    WORD_ID,
    encode_words,
)
from benchmarks.training.__main__ import main as train
from benchmarks.training.accuracy import exact_match, verdicts
from benchmarks.training.architecture import new_model, pixel_values
from benchmarks.training.packed_logits import answer_logits
from benchmarks.training.packing import pack
from benchmarks.training.tokenizer import make_processor

N_SCENES = 40
OVERALL_FLOOR, FAMILY_FLOOR = 0.90, 0.80  # some points below the card, for a sample of this size
MAX_BYTES = 8_000_000


@pytest.fixture(scope="module")
def embedded():
    return load_embedded_model()


@pytest.fixture(scope="module")
def held_out():
    return list(held_out_scenes(N_SCENES))


def chat(processor, text):
    content = [{"type": "image"}, {"type": "text", "text": text}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def answers(model, processor, image, texts):
    """Answers to several questions about a picture, through stock `generate`."""
    prompts = [chat(processor, text) for text in texts]
    inputs = processor(images=[image] * len(texts), text=prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        rows = model.generate(**inputs)
    return processor.batch_decode(rows[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.fixture(scope="module")
def generated(embedded, held_out):
    """Every held-out question with whether stock `generate` answers it right."""
    model, processor = embedded
    return [
        (question, answer == question.answer)
        for scene, questions in held_out
        for question, answer in zip(
            questions, answers(model, processor, scene.image, [q.text for q in questions]), strict=True
        )
    ]


def test_the_weights_are_a_small_safetensors_file_in_half_precision():
    path = embedded_model_path() / "model.safetensors"
    assert path.stat().st_size <= MAX_BYTES
    with safe_open(path, "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}


def test_it_loads_in_float32_and_evaluation_mode(embedded):
    model, _ = embedded
    assert isinstance(model, LlavaForConditionalGeneration)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert not model.training
    assert json.loads((embedded_model_path() / "config.json").read_text())["dtype"] == "float32"


def test_it_is_deep_enough_for_methods_that_cut_inside_the_language_model(embedded):
    model, _ = embedded
    assert model.config.text_config.num_hidden_layers >= 12
    assert model.config.vision_feature_layer == -2
    assert model.config.vision_feature_select_strategy == "default"


def test_the_prompt_is_the_one_of_training_token_by_token(embedded):
    _, processor = embedded
    scene, questions = scene_from_seed(9)
    for question in questions:
        inputs = processor(images=scene.image, text=chat(processor, question.text), return_tensors="pt")
        words = encode_words(question.text)
        expected = [WORD_ID[w] for w in (BOS, USER, *[IMAGE] * N_PATCHES)] + words + [WORD_ID[ASSISTANT]]
        assert inputs["input_ids"][0].tolist() == expected
        assert torch.allclose(inputs["pixel_values"], pixel_values(scene.image[None]), atol=1e-6)


def test_case_punctuation_and_spelling_do_not_matter(embedded):
    _, processor = embedded
    tokens = processor.tokenizer
    for text in ("What color is the star?", "what colour is the star ?", "WHAT COLOR, IS THE STAR?"):
        assert tokens(text)["input_ids"] == [WORD_ID[BOS], *encode_words("what color is the star ?")]


def test_the_tokenizer_brings_every_answer_back(embedded):
    _, processor = embedded
    texts = {q.answer for _, questions in held_out_scenes(60) for q in questions} | {"47", "30"}
    for text in texts:
        ids = [*processor.tokenizer(text, add_special_tokens=False)["input_ids"], WORD_ID[EOS]]
        assert ids[:-1] == encode_words(text)
        assert processor.tokenizer.decode(ids, skip_special_tokens=True) == text
    assert processor.tokenizer.convert_ids_to_tokens(range(len(VOCABULARY))) == list(VOCABULARY)


def test_an_unknown_word_becomes_the_unknown_token(embedded):
    _, processor = embedded
    ids = processor.tokenizer("zebra", add_special_tokens=False)["input_ids"]
    assert ids == [processor.tokenizer.unk_token_id]


@pytest.mark.parametrize("size", [(96, 96), (640, 480), (33, 200)])
def test_any_picture_becomes_the_same_number_of_visual_tokens(embedded, size):
    _, processor = embedded
    inputs = processor(images=Image.new("RGB", size), text=chat(processor, "what ?"), return_tensors="pt")
    assert (inputs["input_ids"] == WORD_ID[IMAGE]).sum() == N_PATCHES
    assert inputs["pixel_values"].shape == (1, 3, 96, 96)


def test_padding_is_on_the_left_and_changes_no_answer(embedded, held_out):
    model, processor = embedded
    scene, questions = held_out[0]
    texts = [question.text for question in questions]
    assert processor.tokenizer.padding_side == "left"
    alone = [answers(model, processor, scene.image, [text])[0] for text in texts]
    assert answers(model, processor, scene.image, texts) == alone


def test_it_answers_held_out_questions_through_stock_generate(generated):
    asked = Counter(question.family for question, _ in generated)
    right = Counter(question.family for question, is_right in generated if is_right)
    assert right.total() / asked.total() >= OVERALL_FLOOR
    assert all(right[family] / asked[family] >= FAMILY_FLOOR for family in FAMILIES), right


def test_teacher_forced_verdicts_are_those_of_generate(embedded, held_out, generated):
    model, _ = embedded
    assert verdicts(model, held_out) == generated


def test_packed_questions_give_the_logits_of_separate_rows(embedded, held_out):
    model, processor = embedded
    scene, questions = held_out[1]
    with torch.no_grad():
        packed = answer_logits(model, pixel_values(scene.image[None]), pack([questions]))
        for question in questions:
            text = f"{chat(processor, question.text)} {question.answer}"
            n = len(encode_words(question.answer)) + 1
            row = model(**processor(images=scene.image, text=text, return_tensors="pt")).logits[0, -n:]
            assert torch.allclose(row, packed[:n], atol=1e-4)
            packed = packed[n:]
    assert not len(packed)


def test_the_files_are_those_that_the_training_program_writes(embedded):
    _, processor = embedded
    written = make_processor()
    assert processor.tokenizer.get_vocab() == written.tokenizer.get_vocab()
    assert processor.chat_template == written.chat_template
    assert processor.image_processor.to_dict() == written.image_processor.to_dict()


def test_a_seed_decides_the_initial_weights():
    one, same, other = (new_model(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_the_training_program_runs_from_start_to_export(tmp_path):
    counts = [
        "--images-tower",
        "32",
        "--images-alignment",
        "16",
        "--images-language",
        "32",
        "--held-out",
        "4",
    ]
    train(["--seed", "3", "--out", str(tmp_path), *counts])
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    (answer,) = answers(model.eval(), processor, np.zeros((96, 96, 3), np.uint8), ["is there a red star ?"])
    assert isinstance(answer, str)
    lines = [json.loads(line) for line in (tmp_path / "training_log_seed3.jsonl").read_text().splitlines()]
    assert {line.get("phase") for line in lines} == {"tower", "alignment", "language", None}
    measured = exact_match(model, held_out_scenes(4))
    assert lines[-1]["held_out"] == measured
