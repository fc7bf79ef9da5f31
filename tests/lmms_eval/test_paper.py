# SPDX-License-Identifier: Apache-2.0
"""benchmarks/paper on the embedded model: two processes, killed and resumed, the project's own figures."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scene_batches import answer_scenes
from tokenprune_embedded import held_out_scenes, load_embedded_model
from tokenprune_evaluation.settings import UNPRUNED, Setting

from benchmarks.scenes.files import write_scenes

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "lmms_eval_scenes"
N = 3
SETTINGS = {
    ("144", "embedded"): UNPRUNED,
    ("24", "ZOO"): Setting("zoo-prune", 24),
    ("9", "ZOO"): Setting("zoo-prune", 9),
}
PRUNING = {"144": "method=unpruned", "24": "method=zoo-prune,keep=24", "9": "method=zoo-prune,keep=9"}


@pytest.fixture(scope="module")
def own():
    """Accuracy of each row in the project's own evaluation, in percent."""
    model, processor = load_embedded_model()
    scenes = list(held_out_scenes(N))
    found = {}
    for row, setting in SETTINGS.items():
        answers = answer_scenes(model, processor, scenes, setting, size=32)
        found[row] = 100 * sum(answer.is_right for answer in answers) / len(answers)
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory, own):
    """A folder as docs/data, of a table of the embedded model; one figure is published wrongly."""
    folder = tmp_path_factory.mktemp("paper")
    task = folder / "task"
    shutil.copytree(EXAMPLE, task)
    write_scenes(task, N)
    (folder / "benchmarks.csv").write_text(
        "column,benchmark,metric,task,result,maximum\n"
        "scenes,Scenes,accuracy,tokenprune_scenes,100 `exact_match`,100\n"
    )
    published = {row: f"{figure + (5 if row[0] == '9' else 0):.2f}" for row, figure in own.items()}
    lines = [f"{tokens},{method},{figure},0" for (tokens, method), figure in published.items()]
    (folder / "table-e.csv").write_text("\n".join(["tokens,method,scenes,average", *lines, "9,Other,1.00,0"]))
    with (folder / "commands.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow("table model tokens method benchmark published measured command".split())
        for (tokens, method), figure in published.items():
            command = (
                f"lmms-eval --model tokenprune --model_args pretrained=embedded,{PRUNING[tokens]} --tasks "
                f"tokenprune_scenes --include_path {task} --batch_size 32 --device cpu --output_path out"
            )
            writer.writerow(("table-e", "embedded", tokens, method, "scenes", figure, "", command))
    return folder


def start(data, out, *more):
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(data / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "benchmarks/paper/run.py", "--data", str(data), "--output", str(out), *more]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, **offline},
    )


def finish(process):
    """Exit code and output."""
    output, _ = process.communicate()
    return process.returncode, output


def line_that_says(process, text):
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"the program ended and never said {text!r}")


def results(out):
    return {path.relative_to(out / "runs").parts[1:3]: path for path in out.rglob("*_results.json")}


def children(pid):
    """Processes whose parent is `pid`."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(condition, seconds=60):
    """Whether a condition holds within this time."""
    for _ in range(10 * seconds):
        if condition():
            return True
        time.sleep(0.1)
    return False


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_run_is_resumed_and_its_tables_have_the_own_figures(data, own, tmp_path):
    out = tmp_path / "out"
    code, planned = finish(start(data, out, "--dry-run"))
    assert code == 0 and planned.count("lmms-eval --model tokenprune") == 3 and not out.exists()

    first = start(data, out, "--processes", "2")
    done = line_that_says(first, ": finished in").split(":")[0]
    try:  # the row that was running too may have finished at the same time; the third is started then
        assert wait_until(lambda: children(first.pid))
        busy = children(first.pid)
    finally:
        os.kill(first.pid, signal.SIGKILL)
        finish(first)
    assert wait_until(lambda: not any(map(is_running, busy)))
    kept = {row: path.read_bytes() for row, path in results(out).items()}
    assert done in {"/".join(("table-e", *row)) for row in kept}

    code, output = finish(start(data, out, "--processes", "2"))
    assert code == 0, output
    assert f"{done}: already finished" in output and f"{done}: started" not in output
    assert {row: path.read_bytes() for row, path in results(out).items() if row in kept} == kept
    assert len(list(out.rglob("*_results.json"))) == 3

    with (out / "table-e.csv").open() as file:
        lines = {(line["tokens"], line["method"]): line for line in csv.DictReader(file)}
    assert {row: lines[row]["measured"] for row in own} == {
        row: f"{figure:.2f}" for row, figure in own.items()
    }
    assert {row: line["verdict"] for row, line in lines.items()} == {
        ("144", "embedded"): "reproduced",
        ("24", "ZOO"): "reproduced",
        ("9", "ZOO"): "differs",
        ("9", "Other"): "not attempted",
    }
    kept_rows = json.loads(results(out)["ZOO", "24"].read_text())["throughput"]["avg_visual_rows_kept"]
    assert kept_rows == 24

    code, output = finish(start(data, out, "--report", "--tolerance", "6"))
    assert code == 0 and "1 not attempted, 3 reproduced." in (out / "table-e.md").read_text()


def test_a_row_that_fails_is_named_and_the_others_are_run(data, tmp_path):
    broken = tmp_path / "data"
    shutil.copytree(data, broken, ignore=shutil.ignore_patterns("cache"))
    text = (broken / "commands.csv").read_text()
    (broken / "commands.csv").write_text(text.replace("zoo-prune,keep=9", "zoo-prun,keep=9"))
    rows = ("--rows", "table-e/ZOO/9", "--processes", "1")
    code, output = finish(start(broken, tmp_path / "out", *rows))
    assert code == 1
    assert "table-e/ZOO/9: no results of tokenprune_scenes; see" in output
    assert "unknown method 'zoo-prun'" in (tmp_path / "out/runs/table-e/ZOO/9/log.txt").read_text()
