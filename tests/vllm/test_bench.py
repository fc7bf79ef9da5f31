# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.serving`, once through, as short as it can be."""

import json
import subprocess
import sys
from pathlib import Path

import vllm


def test_the_three_engines_answer_and_the_pruned_one_has_the_shorter_prompt(tmp_path):
    output = tmp_path / "record.json"
    options = ["--clients", "1", "--new-tokens", "1", "--output", output, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", *options],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads(output.read_text())
    assert record == json.loads(done.stdout)
    assert {run["name"]: run["prompt_tokens"] for run in record["runs"]} == {
        "no plugin": 1 + 32 + 576,
        "plugin, idle": 1 + 32 + 576,
        "zoo-exact, 64": 1 + 32 + 64,
    }
    assert [len(run["first_token_seconds"]) for run in record["runs"]] == [6, 6, 6]
    assert record["runs"][0]["throughput_ratio"] == 1
    assert record["versions"]["vllm"].startswith(vllm.__version__)
