# SPDX-License-Identifier: Apache-2.0
"""Scenes written as files are the held-out scenes."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tokenprune_evaluation.question_file import read_questions

from benchmarks.scenes.files import write_scenes


def test_the_files_hold_the_scenes_and_their_questions_in_order(tmp_path, scenes):
    questions = read_questions(write_scenes(tmp_path / "new", 3))
    asked = [(f"scene-{i:04d}.png", q.text, (q.answer,)) for i, (_, qs) in enumerate(scenes) for q in qs]
    assert [(q.image.name, q.text, q.answers) for q in questions] == asked
    for number, (scene, _) in enumerate(scenes):
        assert np.array_equal(
            np.asarray(Image.open(tmp_path / "new" / f"scene-{number:04d}.png")), scene.image
        )


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.scenes", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_says_what_it_wrote(tmp_path, scenes):
    done = command(tmp_path, "--scenes", 3)
    n = sum(len(questions) for _, questions in scenes)
    assert (done.returncode, done.stdout) == (
        0,
        f"{n} questions about 3 scenes: {tmp_path / 'questions.jsonl'}\n",
    )


@pytest.mark.parametrize("arguments", [("--scenes", 0), ("--scenes", "many")])
def test_a_number_of_scenes_that_is_none(tmp_path, arguments):
    done = command(tmp_path / "new", *arguments)
    assert done.returncode == 2 and "--scenes" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "new").exists()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    assert "is a file; expected a folder" in command(tmp_path / "file").stderr
