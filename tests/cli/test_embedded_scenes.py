# SPDX-License-Identifier: Apache-2.0
"""The scenes that come with the package are those that the program draws."""

import shutil

import numpy as np
import pytest
from tokenprune_cli.app import app
from tokenprune_embedded import N_SCENES, Question, held_out_scenes
from tokenprune_embedded import scenes as files
from tokenprune_evaluation.question_file import read_questions
from typer.testing import CliRunner

from benchmarks import scenes as drawn


def test_they_are_the_held_out_scenes_of_the_generator():
    shipped, made = list(held_out_scenes(N_SCENES)), list(drawn.held_out_scenes(N_SCENES))
    assert [questions for _, questions in shipped] == [questions for _, questions in made]
    assert all(np.array_equal(a.image, b.image) for (a, _), (b, _) in zip(shipped, made, strict=True))
    assert shipped[0][1][0] == Question("attribute", "what shape is the cyan object ?", "square")


def test_a_part_of_them():
    (scene, questions), *_ = held_out_scenes(2, start=98)
    whole = list(held_out_scenes(N_SCENES))[98]
    assert np.array_equal(scene.image, whole[0].image) and questions == whole[1]


@pytest.mark.parametrize(("n", "start"), [(101, 0), (1, 100), (-1, 0), (1, -1)])
def test_more_than_there_are_is_refused(n, start):
    with pytest.raises(ValueError, match="the package has 100.*benchmarks.scenes FOLDER --scenes"):
        held_out_scenes(n, start)


@pytest.mark.parametrize("command", ["demo", "compare"])
def test_the_command_line_says_how_many_there_are(command, tmp_path):
    done = CliRunner().invoke(app, [command, "--scenes", "101", "--output", str(tmp_path)])
    assert done.exit_code == 2 and done.stdout == ""
    assert "or equal to 100" in " ".join(done.stderr.split())


@pytest.mark.parametrize("name", ["questions.jsonl", "scene-0007.png"])
def test_a_changed_file_is_found(name, tmp_path, monkeypatch):
    shutil.copytree(files._FOLDER, tmp_path / "scenes")
    with open(tmp_path / "scenes" / name, "ab") as file:
        file.write(b"\n")
    monkeypatch.setattr(files, "_FOLDER", tmp_path / "scenes")
    files._read.cache_clear()
    with pytest.raises(RuntimeError, match="reinstall tokenprune-vlm"):
        held_out_scenes(1)
    files._read.cache_clear()


def test_they_are_a_question_file_of_the_command_line():
    questions = read_questions(files._FOLDER / files.QUESTION_FILE)
    asked = [question for _, questions in held_out_scenes(N_SCENES) for question in questions]
    assert [Question(q.family, q.text, q.answers[0]) for q in questions] == asked
