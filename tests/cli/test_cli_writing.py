# SPDX-License-Identifier: Apache-2.0
"""What cannot be written is refused before any work; what fails all the same loses nothing measured."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image
from tokenprune_cli.app import app
from tokenprune_cli.console import deliver
from tokenprune_cli.console.failures import BadInputError
from tokenprune_evaluation import files
from typer.testing import CliRunner

BENCH = ["bench", "--preset", "micro", "--device", "cpu"]
LITTLE = ["--method", "divprune", "--keep", "9", "--batch", "1", "--new-tokens", "1", "--repeats", "1"]
DEMO = ["--scenes", "1", "--method", "random", "--keep", "9"]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def refused(*arguments):
    """What a command says before it has shown anything."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    return line.removeprefix("tokenprune: ")


@pytest.fixture
def no_work(monkeypatch):
    """Fail as soon as a model is loaded or measured."""

    def work(*_, **__):
        raise AssertionError("work was begun")

    # modules that import load_model first: imported after it is replaced, they would hold the replacement
    monkeypatch.setattr("tokenprune_cli.compare.workers.load_model", work)
    monkeypatch.setattr("tokenprune_cli.bench.measure.measure_preset", work)
    monkeypatch.setattr("tokenprune_cli.console.models.load_model", work)


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """A directory that may not be written to (also for root, who may write everywhere)."""
    folder = tmp_path / "locked"
    folder.mkdir()
    allowed = os.access

    def access(path, mode):
        return allowed(path, mode) and not (path == folder and mode & os.W_OK)

    monkeypatch.setattr(files.os, "access", access)
    return folder


def test_a_target_is_a_file_in_a_directory_that_may_be_written(tmp_path, locked):
    files.check_folder(None)
    files.check_folder(tmp_path / "new.json")
    for target, said in (
        (tmp_path / "none" / "x.json", "none' does not exist, so 'x.json' cannot be written there"),
        (tmp_path, "is a directory; give the path of a file"),
        (locked / "x.json", "x.json' cannot be written: permission denied"),
    ):
        with pytest.raises(BadInputError, match=said):
            files.check_folder(target)


def test_a_record_that_could_not_be_written_is_refused_before_any_work(tmp_path, locked, no_work):
    command = [*BENCH, "--output"]
    assert "is a directory" in refused(*command, tmp_path)
    assert "cannot be written: permission denied" in refused(*command, locked / "record.json")


def test_a_plot_that_could_not_be_written_is_refused_before_any_work(tmp_path, locked, no_work):
    (tmp_path / "dir.png").mkdir()
    plot = [*BENCH, "--plot"]
    assert "'nomodel' has no image file extension" in refused(*plot, "nomodel")
    assert "has no image file extension" in refused(*plot, tmp_path / "speed.json")
    assert "does not exist" in refused(*plot, tmp_path / "none" / "speed.png")
    assert "is a directory" in refused(*plot, tmp_path / "dir.png")
    assert "cannot be written: permission denied" in refused(*plot, locked / "speed.svg")


def test_a_folder_that_may_not_be_written_is_refused_before_any_work(tmp_path, locked, no_work):
    for command in (["demo"], ["compare", "--scenes", "2", "--model", locked.name]):
        assert "permission denied" in refused(*command, "--output", locked)


def test_names_that_are_directories_are_refused_before_any_work(tmp_path, no_work, untrained):
    for command, name in (("demo", "demo.json"), ("compare", "report.html"), ("compare", "compare.csv")):
        output = tmp_path / name.replace(".", "-")
        (output / name).mkdir(parents=True)
        assert f"{name}' is a directory" in refused(command, "--output", output)


def test_a_picture_of_the_demo_that_is_a_directory_is_refused(tmp_path, untrained):
    (tmp_path / "random.png").mkdir()
    said = refused("demo", "--model", untrained, "--output", tmp_path, *DEMO)
    assert "random.png' is a directory" in said


def test_a_journal_that_is_a_directory_is_refused(tmp_path, untrained):
    (tmp_path / untrained.name / "answers.jsonl").mkdir(parents=True)
    options = ["--model", untrained, "--scenes", "2", "--keep", "9", "--output", tmp_path]
    assert "answers.jsonl' is a directory" in refused("compare", *options)


def test_lines_that_cannot_be_added_to_the_journal_are_one_sentence(tmp_path):
    from tokenprune_evaluation.journal import Journal

    journal = Journal(tmp_path / "answers.jsonl", {"a": 1})
    (tmp_path / "answers.jsonl").unlink()
    (tmp_path / "answers.jsonl").mkdir()
    with pytest.raises(BadInputError, match=r"answers\.jsonl' cannot be written: Is a directory"):
        journal.append({})


def shown_though(arguments, said):
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr.strip().splitlines()[-1]  # after the lines of progress
    return result.stdout


@pytest.fixture
def full_disk(monkeypatch):
    """Writing texts fails; that it will cannot be known before."""

    def fail(self, *_, **__):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(files.Path, "write_text", fail)


def test_what_was_measured_is_shown_before_writing_fails(tmp_path, untrained, full_disk):
    said = "cannot be written: No space left on device"
    bench = shown_though([*BENCH, *LITTLE, "--output", tmp_path / "x.json"], said)
    assert "divprune, 9" in bench
    demo = ["demo", "--model", untrained, "--output", tmp_path, *DEMO]
    assert "right %" in shown_though(demo, said)
    assert json.loads(shown_though([*demo, "--json"], said))["questions"] > 0


def test_what_was_measured_is_written_when_nobody_reads_it(tmp_path, untrained):
    reading, writing = os.pipe()
    os.close(reading)
    done = process("demo", "--model", str(untrained), "--output", str(tmp_path), *DEMO, stdout=writing)
    os.close(writing)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert json.loads((tmp_path / "demo.json").read_text())["questions"] > 0
    assert (tmp_path / "random.png").exists()


def test_bytes_of_a_file_name_that_are_no_utf_8_are_written_as_escapes(tmp_path):
    files.write_text(tmp_path / "x.html", "caf\u00e9-\udce9")
    assert (tmp_path / "x.html").read_bytes() == b"caf\xc3\xa9-\\udce9\n"


def test_a_record_is_written_when_it_cannot_be_shown(tmp_path):
    def show(record):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        deliver.deliver({"a": 1}, show, False, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}


def process(*arguments, **options):
    command = [sys.executable, "-m", "tokenprune_cli", *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **options)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["plugins"], ["--help"]])
def test_a_full_disk_at_stdout_is_one_sentence_and_exit_code_2(arguments):
    with open("/dev/full", "w") as full:
        done = process(*arguments, stdout=full)
    assert done.returncode == 2
    assert done.stderr == "tokenprune: the output cannot be written: No space left on device\n"


def test_a_stdout_that_takes_no_output_is_one_sentence_and_exit_code_2():
    with open(os.devnull) as reading:
        done = process("list", stdout=reading)
    assert done.returncode == 2
    assert done.stderr == "tokenprune: the output cannot be written: Bad file descriptor\n"


def test_a_reader_that_goes_away_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = process("list", stdout=writing)
    os.close(writing)
    assert done.returncode == 1 and done.stderr == ""


def test_letters_that_stdout_does_not_know_do_not_stop_the_demo(tmp_path, untrained):
    options = ["--model", str(untrained), "--output", str(tmp_path), *DEMO]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = process("demo", *options, stdout=subprocess.PIPE, env=environment)
    assert done.returncode == 0, done.stderr
    assert "right %" in done.stdout and "demo.json" in done.stdout
    with Image.open(tmp_path / "random.png") as picture:
        assert picture.width > 300
