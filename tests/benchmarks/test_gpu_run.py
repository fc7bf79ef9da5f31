# SPDX-License-Identifier: Apache-2.0
"""benchmarks/gpu: its micro twin from end to end; going on, stopping in time, saying why it cannot run."""

import importlib
import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks/gpu"


@pytest.fixture(scope="module")
def program():
    """The program's modules."""
    names = {"checkout": "checkout", "steps": "steps", "measure": "__main__"}
    return {name: importlib.import_module(f"benchmarks.gpu.{module}") for name, module in names.items()}


@pytest.fixture
def measure(program):
    return program["measure"]


def run_sh(*arguments):
    return subprocess.run(
        [str(FOLDER / "run.sh"), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.fixture(scope="module")
def micro(tmp_path_factory):
    """Folder and output of a whole run of the micro twin, and of a second one."""
    out = tmp_path_factory.mktemp("gpu") / "records"
    return out, run_sh("--out", out, "--micro"), run_sh("--out", out, "--micro")


def test_the_micro_twin_writes_a_record_for_each_step(micro, program):
    out, first, _ = micro
    assert first.returncode == 0, first.stdout + first.stderr
    records = {
        step.name: json.loads((out / f"{step.name}.json").read_text())
        for step in program["steps"].steps(True)
    }
    assert {record["outcome"] for record in records.values()} == {"done"}
    assert all(record["machine"]["flash_attention"] for record in records.values())
    tests, speed = records["tests"]["found"], records["bench-micro"]["found"]
    assert tests["counts"]["passed"] > 0 and tests["counts"]["failed"] == 0
    assert sum(tests["tests_by_attention"].values()) == tests["counts"]["passed"]
    names = {run["name"] for run in speed["runs"]}
    assert names == {"unpruned", "downsample", "oracle", *program["steps"].METHODS}
    assert {run["batch"] for run in speed["runs"]} == {1, 2}


def test_records_hold_no_path_of_the_machine(micro):
    out = micro[0]
    for file in out.glob("*.json"):
        text = file.read_text()
        assert str(out) not in text and str(ROOT) not in text
        assert "/tmp" not in text


def test_a_second_run_skips_what_is_finished(micro):
    assert micro[2].returncode == 0
    assert micro[2].stdout.splitlines() == ["tests: already finished", "bench-micro: already finished"]


def test_without_a_gpu_it_says_so(tmp_path):
    done = run_sh("--out", tmp_path / "records")
    assert done.returncode == 2
    assert "finds no NVIDIA GPU on this machine" in done.stderr and "--micro" in done.stderr
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--out"),
        (["--out", "{file}"], "cannot be created"),
        (["--out", "x", "--minutes", "0"], "--minutes must be more than 0, got 0"),
        (["--out", "x", "--minutes", "nan"], "--minutes must be more than 0, got nan"),
    ],
)
def test_bad_input_is_refused(measure, tmp_path, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as caught:
        measure.main([a.format(file=tmp_path / "file") for a in [*arguments, "--micro"]])
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


def step(program, name, code, seconds=60):
    """A step that runs a module of its own making, `code` in a file on the path."""
    return program["steps"].Step(name, (f"gpu_step_{name}", "{record}"), seconds)


@pytest.fixture
def work(program, measure, tmp_path, monkeypatch):
    """Return a function that runs steps made of Python code: (exit code, records)."""
    monkeypatch.setattr(measure, "environment", lambda folder: os.environ | {"PYTHONPATH": str(tmp_path)})
    out = tmp_path / "out"
    out.mkdir()

    def run(minutes=1, seconds=60, **codes):
        steps = []
        for name, code in codes.items():
            (tmp_path / f"gpu_step_{name}.py").write_text(f"import sys, time\n{code}")
            steps.append(step(program, name, code, seconds))
        found = measure.work(steps, out, minutes, {"torch": "x"})
        return found, {file.stem: json.loads(file.read_text()) for file in out.glob("*.json")}

    run.out = out
    return run


GOOD = "open(sys.argv[1], 'w').write('{\"a\": 1}')"


def test_a_failed_step_is_run_again_and_stops_no_other(work, capsys):
    code, records = work(bad="print('why'); sys.exit(5)", good=GOOD)
    assert code == 1
    assert (records["bad"]["outcome"], records["bad"]["exit_code"]) == ("failed", 5)
    assert (records["good"]["outcome"], records["good"]["found"]) == ("done", {"a": 1})
    assert "bad.log" in capsys.readouterr().out
    assert (work.out / "bad.log").read_text() == "why\n"
    code, records = work(bad=GOOD, good="sys.exit(7)")
    assert code == 0
    assert records["bad"]["outcome"] == records["good"]["outcome"] == "done"


def test_a_step_whose_command_has_changed_is_run_again(work, program, measure):
    work(one=GOOD)
    changed = program["steps"].Step("one", ("gpu_step_one", "{record}", "--more"), 60)
    assert not measure.is_finished(work.out / "one.json", changed)


def test_a_step_that_takes_too_long_is_stopped_and_the_next_one_run(work):
    code, records = work(seconds=1, slow="time.sleep(60)", good=GOOD)
    assert code == 1
    assert (records["slow"]["outcome"], records["slow"]["exit_code"]) == ("out of time", None)


def test_no_step_is_begun_when_the_time_is_over(work, capsys):
    code, records = work(minutes=0.1, good=GOOD)
    assert (code, records) == (3, {})
    assert "run this again" in capsys.readouterr().out


def test_an_interrupt_leaves_nothing_running_and_no_half_record(work, measure, monkeypatch):
    processes = []
    popen = subprocess.Popen

    def interrupted(*args, **kwargs):
        process = popen(*args, **kwargs)
        processes.append(process)
        wait, calls = process.wait, []

        def raise_once(timeout=None):
            if not calls:
                calls.append(1)
                raise KeyboardInterrupt
            return wait(timeout)

        process.wait = raise_once
        return process

    monkeypatch.setattr(measure.subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        work(slow="time.sleep(60)")
    assert processes[0].poll() is not None
    assert not list(work.out.glob("*.json"))


def test_the_steps_are_those_that_were_asked_for(program):
    steps = program["steps"].steps(False)
    assert steps[0].arguments[0] == "pytest" and "gpu" in steps[0].arguments
    assert [one.name for one in steps[1:]] == [
        f"bench-{preset}-batch-{batch}"
        for preset in ("llava-1.5-7b", "llava-next-7b", "qwen2.5-vl-7b")
        for batch in (1, 8)
    ]
    assert all("bfloat16" in one.arguments for one in steps[1:])
    for name in program["steps"].TESTS:
        assert "pytest.mark.gpu" in (ROOT / name).read_text()


def test_every_file_with_gpu_tests_is_run(program):
    files = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "tests").rglob("test_*.py")
        if "mark.gpu" in file.read_text() and file != Path(__file__)
    }
    assert files == set(program["steps"].TESTS)


def test_the_metadata_names_the_entry_points_of_pyproject(program, tmp_path, monkeypatch):
    program["checkout"].write_metadata(tmp_path)
    (info,) = tmp_path.glob("tokenprune_vlm-*.dist-info")
    text = (info / "entry_points.txt").read_text()
    for group in ("tokenprune", "vllm.general_plugins", "lmms_eval.models"):
        assert f"[{group}]" in text
    ours = {
        (point.name, point.value)
        for point in entry_points(group="tokenprune")
        if point.dist is not None and point.dist.name == "tokenprune-vlm"
    }
    monkeypatch.syspath_prepend(tmp_path)
    made = {
        (point.name, point.value)
        for point in entry_points(group="tokenprune")
        if str(tmp_path) in str(point.dist._path)
    }
    assert made >= ours
