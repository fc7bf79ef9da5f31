# SPDX-License-Identifier: Apache-2.0
"""`tokenprune compare` writes inside --output and nowhere else, however a model's path is written."""

import json
import shutil

import pytest
from tokenprune_cli.app import app
from tokenprune_cli.commands.compare import _folders
from tokenprune_cli.console.failures import BadInputError
from typer.testing import CliRunner

LITTLE = ["--scenes", "2", "--method", "divprune", "--keep", "9", "--protocol", "matched"]
LITTLE += ["--max-new-tokens", "1", "--workers", "1"]


def compare(*arguments):
    return CliRunner().invoke(app, ["compare", *LITTLE, *map(str, arguments)])


def refused(*arguments):
    result = compare(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    return line.removeprefix("tokenprune: ")


@pytest.fixture(scope="module")
def zoo(untrained, tmp_path_factory):
    """A folder with the model `llava`, a folder in it, and a link to it."""
    folder = tmp_path_factory.mktemp("zoo")
    shutil.copytree(untrained, folder / "llava")
    (folder / "llava" / "deep").mkdir()
    (folder / "link").symlink_to("llava")
    return folder


def files(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("where", "given"), [("llava", "."), ("llava/deep", ".."), ("llava/deep", ".././"), (".", "link/")]
)
def test_everything_is_written_inside_the_output(zoo, tmp_path, monkeypatch, where, given):
    before = files(zoo)
    (tmp_path / "answers.jsonl").write_text("somebody's")  # `..` would mean this one
    monkeypatch.chdir(zoo / where)
    result = compare("--model", given, "--output", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert files(zoo) == before
    assert {path.name for path in tmp_path.iterdir()} == {"answers.jsonl", "out"}
    assert (tmp_path / "answers.jsonl").read_text() == "somebody's"
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"llava", "compare.json", "compare.csv", "report.html"}
    made = {path.name for path in (out / "llava").iterdir()}
    plots = {f"matched-exact_match-{axis}.svg" for axis in ("rows", "flops")}
    assert made == {"answers.jsonl", "pictures"} | plots
    (model,) = json.loads(result.stdout)["models"]
    assert model["name"] == model["configuration"]["model"] == "llava"


@pytest.fixture
def no_work(monkeypatch):
    monkeypatch.setattr("tokenprune_cli.compare.workers.load_model", lambda *_: pytest.fail("work was begun"))


@pytest.mark.parametrize(
    ("where", "other"),
    [
        (".", "llava"),
        (".", "link"),
        (".", "other/llava"),
        (".", "somebody/llava"),
        ("llava", "."),
        ("llava", "deep/.."),
        ("llava", "../llava/"),
    ],
)
def test_two_models_of_one_name_are_refused_before_any_work(
    zoo, tmp_path, monkeypatch, no_work, where, other
):
    monkeypatch.chdir(zoo / where)
    given = ["--model", zoo / "llava", "--model", other]
    said = refused(*given, "--output", tmp_path / "out")
    assert said.startswith("two models are called 'llava'; rename one directory, or compare each into an")
    assert f"('{zoo / 'llava'}' and '{other}')" in said
    assert not (tmp_path / "out").exists()


def test_a_model_named_as_a_file_of_the_output_is_refused(tmp_path, no_work):
    said = refused("--model", "somebody/report.html", "--output", tmp_path / "out")
    assert said == "a model called 'report.html' would stand where that file goes; rename its directory"
    assert not (tmp_path / "out").exists()


def test_two_folders_that_are_one_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")  # as `A` and `a` are one where case does not count
    with pytest.raises(BadInputError, match=r"a' and '.*b' are one folder; rename one model's directory"):
        _folders(["x/a", "x/b"], tmp_path)
    assert _folders(["x/a", "x/c", None], tmp_path) == [tmp_path / "a", tmp_path / "c", tmp_path / "embedded"]
