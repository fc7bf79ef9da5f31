# SPDX-License-Identifier: Apache-2.0
"""Tensor parallel 2: every rank keeps the same rows, and answers stay what they are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import picture
from engines import Answer, Reference, assert_same, prompt

PROGRAM = """
import dataclasses, json, sys
from checkpoints import picture
from engines import ask, engine
from test_ranks import ASKED

if __name__ == "__main__":
    name, folder, pruning = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    with engine(folder, pruning, tensor_parallel_size=2) as llm:
        print("ANSWERS", json.dumps([dataclasses.asdict(one) for one in ask(llm, ASKED[name]())]))
"""
ASKED = {
    "llava": lambda: [
        prompt("llava", "w5 IMAGE w3 w14 w15", picture(1)),
        prompt("llava", "w5 IMAGE w3 IMAGE w15 w2", picture(2), picture(3)),
    ],
    "qwen": lambda: [
        prompt("qwen", "w5 IMAGE w3 w14 w15", picture(1, 64, 176)),
        prompt("qwen", "w5 IMAGE w3 IMAGE w15 w2", picture(2), picture(3, 160, 64)),
    ],
}


# visionzip's signals cover the tower's heads and the projector, zoo-exact's the merger
@pytest.mark.parametrize(
    ("name", "method"), [("llava", "visionzip"), ("qwen", "visionzip-received"), ("qwen", "zoo-exact")]
)
def test_two_ranks_answer_as_transformers_does(name, method, checkpoint, tmp_path):
    pruning = {"method": method, "keep": 40}
    program = tmp_path / "two_ranks.py"
    program.write_text(PROGRAM)
    here, given = Path(__file__).parent, os.environ.get("PYTHONPATH")
    done = subprocess.run(
        [sys.executable, program, name, checkpoint(name), json.dumps(pruning)],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(here), str(here.parent), *([given] if given else [])]),
            "VLLM_CPU_OMP_THREADS_BIND": "0|1",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("ANSWERS "))
    reference = Reference(checkpoint(name))
    for found, asked in zip(json.loads(line.removeprefix("ANSWERS ")), ASKED[name](), strict=True):
        assert_same(Answer(**found), reference.answer(asked, pruning))
