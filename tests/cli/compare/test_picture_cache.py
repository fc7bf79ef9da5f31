# SPDX-License-Identifier: Apache-2.0
"""Pictures of a question file are opened when they are needed, and few are cached."""

import gc
import json
import weakref
from contextlib import nullcontext

import pytest
from PIL import Image
from tokenprune_cli.compare import answers
from tokenprune_cli.compare.answers import AnswerOptions, Run
from tokenprune_evaluation import question_set
from tokenprune_evaluation.question_set import embedded_scenes, questions_from_file
from tokenprune_evaluation.settings import UNPRUNED

import tokenprune

A_PICTURE = 3 * 40 * 30


@pytest.fixture
def questions(tmp_path, monkeypatch):
    """Twelve questions about twelve pictures, of which three may be cached."""
    monkeypatch.setattr(question_set, "CACHED_BYTES", 3 * A_PICTURE)
    lines = []
    for i in range(12):
        Image.new("RGB", (40, 30), (i, 0, 0)).save(tmp_path / f"{i}.png")
        lines.append(json.dumps({"image": f"{i}.png", "question": "what?", "answer": "it"}))
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(lines))
    return questions_from_file(path)


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are opened."""
    names, real = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path: names.append(path.name) or real(path))
    return names


def test_pictures_are_opened_when_needed_and_few_are_cached(questions, read):
    assert read == []
    alive = []
    for item in questions.items:
        picture = questions.open_image(item.image)
        assert picture.getpixel((0, 0)) == (item.image, 0, 0)
        alive.append(weakref.ref(picture))
    del picture
    gc.collect()
    assert [i for i, ref in enumerate(alive) if ref() is not None] == [9, 10, 11]
    assert questions.open_image.cache.currsize == 3 * A_PICTURE
    assert len(read) == 12


def test_recently_used_pictures_are_not_opened_again(questions, read):
    for i in (0, 1, 0, 2, 0, 3, 0):  # of four pictures 1 is removed: it was used longest ago
        questions.open_image(i)
    assert read == ["0.png", "1.png", "2.png", "3.png"]
    questions.open_image(1)
    assert read[4:] == ["1.png"]


def test_a_picture_larger_than_the_cache_is_opened_every_time(questions, tmp_path, read):
    Image.new("RGB", (100, 100)).save(tmp_path / "1.png")
    for i in (0, 1, 1, 0):
        questions.open_image(i)
    assert read == ["0.png", "1.png", "1.png"]
    assert questions.open_image.cache.currsize == A_PICTURE


def test_a_batch_holds_no_picture_while_its_settings_run(questions, tmp_path, monkeypatch):
    """Only what the processor made of them."""
    seen = []

    def tokenized(processor, images, texts):
        seen.extend(map(weakref.ref, images))
        return {}

    monkeypatch.setattr(question_set, "CACHED_BYTES", 0)
    questions = questions_from_file(tmp_path / "questions.jsonl")
    monkeypatch.setattr(question_set, "tokenized", tokenized)
    held = []

    def answer_batch(*_):
        held.append(sum(ref() is not None for ref in seen))
        raise tokenprune.TokenPruneError("far enough")

    monkeypatch.setattr(answers, "answer_batch", answer_batch)
    monkeypatch.setattr(answers, "shared_tower", nullcontext)  # there is no model
    run = Run(None, None, questions, AnswerOptions(batch=5, max_new_tokens=1, seed=0))
    (line,) = answers.answer(run, 0, (UNPRUNED,))
    assert line["refused"] == "far enough" and (held, len(seen)) == ([0], 5)


def test_digests_are_as_before(questions, tmp_path):
    """So that a run can be resumed: the digest depends on the file and on its pictures alone."""
    again = questions_from_file(tmp_path / "questions.jsonl")
    assert again.digest == questions.digest
    Image.new("RGB", (40, 30), (99, 0, 0)).save(tmp_path / "3.png")
    assert questions_from_file(tmp_path / "questions.jsonl").digest != questions.digest
    assert embedded_scenes(2).digest == embedded_scenes(2).digest
