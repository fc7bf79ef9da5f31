# SPDX-License-Identifier: Apache-2.0
"""benchmarks/paper without lmms-eval: which rows and commands there are, what is compared and how."""

import csv
import fcntl
import json
import os
import shlex
from pathlib import Path

import pytest

from benchmarks.paper import rows as paper_rows
from benchmarks.paper.report import write_reports
from benchmarks.paper.results import judge, measured_figure, read_results
from benchmarks.paper.rows import Cell, Row, read_rows, select_rows
from benchmarks.paper.run import main
from benchmarks.paper.work import Job, work

ROWS = read_rows()
COMMANDS = paper_rows.DATA / "commands.csv"


def find(name):
    (row,) = select_rows(ROWS, [name])
    return row


def test_every_line_of_the_commands_is_a_cell_of_a_row():
    with COMMANDS.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert sum(len(row.cells) for row in ROWS if row.command) == len(lines) == 293
    assert len([row for row in ROWS if row.command]) == 16 + 10 + 4 + 3
    assert len(ROWS) == 16 + 10 + 43 + 3
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_a_row_is_one_command_with_all_tasks():
    row = find("table-b/zoo-prune/64")
    words = Job(row, Path("out/x")).command(row.tasks)
    assert shlex.join(words) == (
        "lmms-eval --model tokenprune --model_args pretrained=llava-hf/llava-1.5-7b-hf,dtype=float16,"
        "system_prompt=vicuna_v1,pad_to_square=true,method=zoo-prune,keep=64 --batch_size 1 --log_samples "
        "--tasks gqa,mmbench_en_dev_static,mme,pope,scienceqa_img,vqav2_test,textvqa_val,mmmu_val,seedbench "
        "--output_path out/x"
    )
    assert Job(row, Path("x"), 8).command(["gqa"])[-6:] == [
        "--tasks",
        "gqa",
        "--limit",
        "8",
        "--output_path",
        "x",
    ]


def test_tables_methods_and_rows_are_selected():
    assert len(select_rows(ROWS, ["table-b"])) == 16
    assert [row.tokens for row in select_rows(ROWS, ["table-c/ZOO-Prune"])] == ["192", "128", "64"]
    two = select_rows(ROWS, ["qwen2.5-vl-7b/ZOO-Prune/10%", "table-d/LLaVA-NeXT-7B"])
    assert [row.name for row in two] == ["table-d/LLaVA-NeXT-7B/2880", "qwen2.5-vl-7b/ZOO-Prune/10%"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rows", "table-x"], "there is no table or row 'table-x'; there are\n  table-b\n"),
        (["--rows", "table-b/ZOO"], "table-c/ZOO-Prune/192"),
        (["--rows", "table-d/Layer-01"], "no strategy of this package runs it"),
        (["--rows", "table-d", "--benchmarks", "VQAv2"], "there is no benchmark 'VQAv2'; there are GQA, MMB"),
        (["--gpus", "0"], "--gpus must be 1 or more, got 0"),
        (["--gpus", "1", "--processes", "1"], "not allowed with argument"),
        (["--tolerance", "-1"], "--tolerance must be 0 or more, got -1"),
        (["--tolerance", "nan"], "--tolerance must be 0 or more, got nan"),
        (["--limit", "0"], "--limit must be 1 or more, got 0"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_refused(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--output", "out"])
    assert ended.value.code == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_has_one_run_at_a_time(capsys, tmp_path):
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit):
            main(["--report", "--output", str(tmp_path)])
    assert f"another run is writing to {tmp_path}" in capsys.readouterr().err


def test_files_that_disagree_are_refused(tmp_path):
    for path in paper_rows.DATA.glob("*.csv"):
        (tmp_path / path.name).write_text(path.read_text())
    text = COMMANDS.read_text()
    (tmp_path / "commands.csv").write_text(text.replace("ZOO-Prune,GQA,58.47", "ZOO-Prune,GQA,58.48"))
    with pytest.raises(
        ValueError, match=r"commands.csv and table-b.csv have different figures for table-b/ZOO"
    ):
        read_rows(tmp_path)
    (tmp_path / "commands.csv").write_text(text.replace("keep=64 --tasks gqa", "keep=65 --tasks gqa", 1))
    with pytest.raises(ValueError, match=r"the commands of table-b/\S+/64 in commands.csv differ in more"):
        read_rows(tmp_path)


@pytest.mark.parametrize(
    ("result", "metrics", "figure"),
    [
        ("100 `exact_match`", {"exact_match,none": 0.5847, "exact_match_stderr,none": 0.1}, 58.47),
        ("100 `a`", {"a,strict": 0.25}, 25.0),
        ("100 `a`", {"a,strict": 0.25, "a,none": 0.5}, 50.0),
        ("`a` + `b`", {"a,none": 1400.5, "b,none": 300.0}, 1700.5),
        ("`a` + `b`", {"a,none": 1400.5}, None),
        ("`a`", {"a,none": None}, None),
        ("a submission file for the benchmark's server", {"submission,none": None}, None),
    ],
)
def test_figures_are_computed_of_the_metrics(result, metrics, figure):
    assert measured_figure(result, metrics) == (None if figure is None else pytest.approx(figure))


def test_every_formula_is_understood():
    for row in ROWS:
        for cell in row.cells:
            names = [word.strip("`") for word in cell.result.split() if word.startswith("`")]
            found = measured_figure(cell.result, {f"{name},none": 1.0 for name in names})
            assert (found is None) == (cell.benchmark == "VQAv2")


def row_of(published="50.00", maximum=100.0, result="`a`"):
    cell = Cell("A", published, "task_a", result, maximum)
    return Row("t", "M", "64", "X", (cell,), ("lmms-eval", "--model_args", "m=1"))


@pytest.mark.parametrize(
    ("published", "maximum", "measured", "tolerance", "verdict"),
    [
        ("50.00", 100, 51.0, 1, "reproduced"),
        ("50.00", 100, 48.99, 1, "differs"),
        ("58.47", 100, 58.97, 0.5, "reproduced"),
        ("1675.59", 2800, 1703.59, 1, "reproduced"),
        ("1675.59", 2800, 1703.7, 1, "differs"),
        ("50.00", 100, 50.0, 0, "reproduced"),
        ("", 100, 50.0, 1, "no published figure"),
        ("50.00", 100, None, 1, "not attempted"),
    ],
)
def test_verdicts(published, maximum, measured, tolerance, verdict):
    row = row_of(published, maximum)
    results = {} if measured is None else {"task_a": {"a,none": measured}}
    found = judge(row, row.cells[0], results, tolerance)
    assert (found.measured, found.verdict) == (measured, verdict)


def test_a_trial_is_not_compared():
    row = row_of()
    found = judge(row, row.cells[0], {"task_a": {"a,none": 50.0}}, 1, limit=8)
    assert (found.measured, found.verdict, found.note) == (
        50.0,
        "not attempted",
        "measured on 8 questions only",
    )


def write_result(folder, name, metrics, when, arguments="m=1", limit=None):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_results.json"
    record = {"results": metrics, "config": {"model_args": arguments, "limit": limit}}
    path.write_text(json.dumps(record))
    os.utime(path, (when, when))
    return path


def test_results_of_other_arguments_and_half_files_are_missing(tmp_path):
    row = row_of()
    write_result(tmp_path / "m", "1", {"task_a": {"a,none": 1}, "other": {}}, 1)
    write_result(tmp_path / "m", "2", {"task_a": {"a,none": 2}}, 2)
    write_result(tmp_path / "m", "3", {"task_a": {"a,none": 3}}, 3, arguments="m=2")
    write_result(tmp_path / "m", "4", {"task_a": {"a,none": 4}}, 4, limit=8)
    (tmp_path / "5_results.json").write_text('{"results": {"task_a"')
    assert read_results(tmp_path, row) == {"task_a": {"a,none": 2}}
    assert read_results(tmp_path, row, 8) == {"task_a": {"a,none": 4}}


def test_the_tables_that_are_written(tmp_path):
    row = row_of()
    rows = [row, Row("t", "M", "64", "Layer 1", row.cells)]
    write_result(tmp_path / "runs/t/X/64", "1", {"task_a": {"a,none": 50.25}}, 1)
    assert write_reports(rows, ["t"], tmp_path, 1.0) == [tmp_path / "t.md"]
    assert (tmp_path / "t.md").read_text() == (
        "# t: M\n\n"
        "Published / measured figure; reproduced: within 1 points of 100.\n\n"
        "1 not attempted, 1 reproduced.\n\n"
        "| tokens | method | A |\n"
        "| ---: | --- | --- |\n"
        "| 64 | X | 50.00 / 50.25 reproduced |\n"
        "| 64 | Layer 1 | 50.00 not attempted |\n"
    )
    assert (tmp_path / "t.csv").read_text().splitlines()[1:] == [
        "t,M,64,X,A,50.00,50.25,+0.25,1,reproduced,",
        "t,M,64,Layer 1,A,50.00,,,1,not attempted,no strategy of this package runs this row",
    ]


FAKE = """
import json, os, pathlib, sys
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = pathlib.Path(words["--output_path"])
if words["--model_args"] != "m=bad":
    results = {task: {"a,none": 1.0} for task in words["--tasks"].split(",")}
    record = {"results": results, "config": {"model_args": words["--model_args"], "limit": None}}
    (folder / f"{words['--tasks']}_results.json").write_text(json.dumps(record))
    (folder / "slot").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
"""


@pytest.fixture
def slots(tmp_path):
    """Two slots with a program in lmms-eval's place."""
    (tmp_path / "fake/lmms_eval").mkdir(parents=True)
    (tmp_path / "fake/lmms_eval/__main__.py").write_text(FAKE)
    return [{"PYTHONPATH": str(tmp_path / "fake"), "CUDA_VISIBLE_DEVICES": str(n)} for n in range(2)]


def job(folder, name, arguments="m=1", tasks=("task_a",)):
    cells = tuple(Cell(task, "1.0", task, "`a`", 100) for task in tasks)
    row = Row("t", "M", "64", name, cells, ("lmms-eval", "--model_args", arguments))
    return Job(row, folder / name)


def test_rows_are_run_in_slots_and_failures_stop_no_other(tmp_path, slots, capsys):
    jobs = [job(tmp_path, "A"), job(tmp_path, "B", "m=bad"), job(tmp_path, "C")]
    ended = []
    assert work(jobs, slots, ended.append, 0.01) == [jobs[1]]
    assert sorted(one.row.method for one in ended) == ["A", "B", "C"]
    assert "t/B/64: no results of task_a; see" in capsys.readouterr().out
    assert jobs[0].missing() == jobs[2].missing() == ()
    assert {(tmp_path / name / "slot").read_text() for name in "AC"} <= {"0", "1"}


def test_only_missing_tasks_are_run_again(tmp_path, slots):
    whole = job(tmp_path, "A", tasks=("task_a", "task_b"))
    write_result(tmp_path / "A", "old", {"task_a": {"a,none": 7.0}}, 1)
    assert whole.missing() == ("task_b",)
    assert work([whole], slots, lambda _: None, 0.01) == []
    assert read_results(whole.folder, whole.row) == {"task_a": {"a,none": 7.0}, "task_b": {"a,none": 1.0}}


def test_an_interrupt_leaves_nothing_running(tmp_path, slots, monkeypatch):
    started = []
    (tmp_path / "fake/lmms_eval/__main__.py").write_text("import time; time.sleep(60)")

    def start(self, variables, begin=Job.start):
        started.append(begin(self, variables))
        return started[-1]

    monkeypatch.setattr(Job, "start", start)

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.paper.work.time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        work([job(tmp_path, "A"), job(tmp_path, "B")], slots, lambda _: None)
    assert [process.returncode for process in started] == [-9, -9]


@pytest.fixture
def slots_of(tmp_path, monkeypatch):
    """Return a function of options and of the GPUs there are: the slots that rows are run in."""
    seen = []
    monkeypatch.setattr("benchmarks.paper.run.importlib.util.find_spec", lambda _: True)
    monkeypatch.setattr("benchmarks.paper.run.signal.signal", lambda *_: None)
    monkeypatch.setattr("benchmarks.paper.run.work", lambda jobs, slots, after: seen.append(slots) or [])

    def run(*options, gpus=0, visible=None):
        monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert main(["--rows", "table-c", "--output", str(tmp_path), *options]) == 0
        return [slot["CUDA_VISIBLE_DEVICES"] for slot in seen.pop()]

    return run


def test_a_process_has_a_gpu_of_its_own(slots_of):
    assert slots_of("--gpus", "2", gpus=4) == ["0", "1"]
    assert slots_of(gpus=3) == ["0", "1", "2"]
    assert slots_of("--gpus", "1", gpus=2, visible="5,7") == ["5"]
    assert slots_of(gpus=2, visible="5,7") == ["5", "7"]
    assert slots_of("--processes", "3", gpus=4) == ["", "", ""]


@pytest.mark.parametrize(("options", "gpus"), [(["--gpus", "8"], 2), ([], 0)])
def test_gpus_that_are_not_there_are_refused(slots_of, capsys, options, gpus):
    with pytest.raises(SystemExit):
        slots_of(*options, gpus=gpus)
    assert f"PyTorch finds {gpus} NVIDIA GPUs; give --gpus at most that number" in capsys.readouterr().err


def test_without_lmms_eval_it_says_so(slots_of, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.paper.run.importlib.util.find_spec", lambda _: None)
    with pytest.raises(SystemExit):
        slots_of(gpus=1)
    assert "lmms-eval is not installed here" in capsys.readouterr().err
