# SPDX-License-Identifier: Apache-2.0
"""The released lmms-eval, offline, on the example task: the accuracy of the project's own evaluation."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scene_batches import answer_scenes
from tokenprune_embedded import embedded_model_path, held_out_scenes, load_embedded_model
from tokenprune_evaluation.settings import UNPRUNED, Setting

from benchmarks.scenes.files import write_scenes

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "lmms_eval_scenes"
TASK, N, BATCH = "tokenprune_scenes", 20, 32
TWO = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
TWO += ["--dynamo_backend", "no", "--main_process_port", "0"]  # 0: a free one


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """The example's folder with its data, as docs/lmms-eval.md has it made."""
    folder = tmp_path_factory.mktemp("task") / EXAMPLE.name
    shutil.copytree(EXAMPLE, folder)
    write_scenes(folder, N)
    return folder


@pytest.fixture(scope="module")
def own():
    """What the project's own evaluation says: a function of a setting."""
    model, processor = load_embedded_model()
    scenes = list(held_out_scenes(N))

    def evaluate(setting):
        answers = answer_scenes(model, processor, scenes, setting, size=BATCH)
        texts = [(answer.question.text, answer.answered.text) for answer in answers]
        return sum(answer.is_right for answer in answers) / len(answers), texts

    return evaluate


def lmms_eval(folder, arguments, launcher=("-m",), task=None, environment=()):
    """Run lmms-eval's command line; what it wrote lies in `folder`."""
    command = [sys.executable, *launcher, "lmms_eval", "--model", "tokenprune", "--model_args", arguments]
    command += ["--tasks", TASK, "--include_path", str(task), "--batch_size", str(BATCH), "--device", "cpu"]
    command += ["--log_samples", "--output_path", str(folder / "out")]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **offline, **dict(environment)},
        check=False,
    )


def written(folder):
    """The one result, and the samples sorted by document."""
    (results,) = (folder / "out").rglob("*_results.json")
    (samples,) = (folder / "out").rglob(f"*_samples_{TASK}.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    found = {line["doc_id"]: (line["input"], line["filtered_resps"]) for line in lines}
    return json.loads(results.read_text()), [found[number] for number in sorted(found)]


def texts(samples):
    return [(question, said[0] if isinstance(said, list) else said) for question, said in samples]


@pytest.mark.parametrize("n_processes", [1, 2])
def test_the_accuracy_is_that_of_the_own_evaluation(task, own, tmp_path, n_processes):
    launcher = ["-m"]
    environment = {}
    if n_processes == 2:
        launcher = ["-m", "accelerate.commands.launch", *TWO, "-m"]
        environment = {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    done = lmms_eval(tmp_path, "pretrained=embedded,method=zoo-prune,keep=24", launcher, task, environment)
    results, samples = written(tmp_path)
    accuracy, answered = own(Setting("zoo-prune", 24))
    assert results["results"][TASK]["exact_match,none"] == pytest.approx(accuracy, abs=1e-12)
    assert texts(samples) == answered
    assert results["throughput"]["avg_visual_rows_kept"] == 24
    assert done.stdout.count("visual rows per image") == n_processes


def test_unpruned_from_the_embedded_models_folder(task, own, tmp_path):
    lmms_eval(tmp_path, f"pretrained={embedded_model_path()},method=unpruned", task=task)
    results, samples = written(tmp_path)
    accuracy, answered = own(UNPRUNED)
    assert results["results"][TASK]["exact_match,none"] == pytest.approx(accuracy, abs=1e-12)
    assert texts(samples) == answered
    assert "avg_visual_rows_kept" not in results["throughput"]


def test_bad_input_ends_with_one_sentence_and_exit_code_2(task, tmp_path):
    done = lmms_eval(tmp_path, "pretrained=embedded,method=zoo-prun,keep=24", task=task)
    assert done.returncode == 2
    assert (
        done.stderr.strip().splitlines()[-1].startswith("tokenprune: unknown method 'zoo-prun'. Did you mean")
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
