# SPDX-License-Identifier: Apache-2.0
"""`tokenprune bench --engine vllm`, once through, as short as it can be."""

import json
import subprocess
import sys

import vllm


def test_the_four_engines_answer_and_the_pruned_ones_have_the_shorter_prompt(tmp_path):
    output = tmp_path / "record.json"
    options = ["--clients", "1", "--new-tokens", "2", "--repeats", "1", "--output", output, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "tokenprune_cli", "bench", "--engine", "vllm", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads(output.read_text())
    assert record == json.loads(done.stdout)
    runs = {run["name"]: run for run in record["runs"]}
    assert {name: run["prompt_tokens"] for name, run in runs.items()} == {
        "no plugin": 1 + 32 + 576,
        "plugin, idle": 1 + 32 + 576,
        "divprune, 64": 1 + 32 + 64,
        "tower divprune, 64 @2": 1 + 32 + 64,
    }
    assert record["load"]["requests"] == [4]
    for run in runs.values():
        assert len(run["first_token_seconds"]) == len(run["answer_seconds"]) == 4
        times = zip(run["first_token_seconds"], run["answer_seconds"], strict=True)
        assert all(first < answer for first, answer in times)
        assert run["throughput_interval"] is None  # of a single round
    assert runs["no plugin"]["throughput_ratio"] == 1
    inside, after = runs["tower divprune, 64 @2"], runs["divprune, 64"]
    ratio = inside["requests_per_second"] / after["requests_per_second"]
    assert abs(inside["tower_ratio"] - ratio) < 2e-3
    assert record["versions"]["vllm"].startswith(vllm.__version__)
