# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.studies`: its record, its tables, and one sentence for what cannot be used."""

import json
from pathlib import Path

import pytest
from tokenprune_evaluation.records import from_dict, read, to_dict
from typer.testing import CliRunner

from benchmarks.studies.__main__ import app
from benchmarks.studies.study import StudyRecord

RECORDS = Path(__file__).parents[3] / "docs/benchmarks/studies"


def invoke(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def run(untrained, tmp_path_factory):
    """A study on two scenes, its record written to a file."""
    path = tmp_path_factory.mktemp("study") / "positions.json"
    options = ["--model", untrained, "--scenes", 2, "--max-new-tokens", 1, "--output", path]
    result = invoke("positions", *options)
    assert result.exit_code == 0, result.output
    return result.stdout, json.loads(path.read_text())


def test_the_record_says_what_was_run(run, untrained):
    _, record = run
    assert record["study"] == "positions" and record["model"] == untrained.name
    assert record["questions"]["pictures"] == 2
    cells = [(cell["variant"], cell["kept"]) for cell in record["cells"]]
    kept = [(variant, keep) for keep in (36, 18, 9) for variant in ("contiguous", "original")]
    assert cells == [("unpruned", 144), *kept]
    assert record["rankings"] == []


def test_records_are_read_as_they_were_written(run):
    assert to_dict(from_dict(StudyRecord, run[1])) == run[1]
    for file in RECORDS.glob("*.json"):
        assert to_dict(read(StudyRecord, file)) == json.loads(file.read_text())


def test_the_terminal_says_what_was_asked_and_shows_the_table(run):
    stdout, record = run
    assert stdout.startswith("Should kept tokens be renumbered, or keep their positions?")
    assert f"{record['questions']['count']} questions about 2 pictures" in stdout
    assert "contiguous (the" in stdout and "paired bootstrap over images" in stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "'nothing' is not one of 'layers'"),
        (
            ["layers", "--questions", "q.jsonl", "--scenes", 3],
            "give either --questions or --scenes, not both",
        ),
        (["layers", "--metric", "exact_match"], "--metric goes with --questions"),
        (["layers", "--questions", "no-such.jsonl"], "the question file 'no-such.jsonl' cannot be read"),
        (["layers", "--output", "no-such/record.json"], "the directory 'no-such' does not exist"),
        (["layers", "--model", "./no-such-model"], "there is no such directory"),
        (["layers", "--scenes", 2, "--dtype", "bfloat16"], "load the model in float32"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert result.stdout == ""
