# SPDX-License-Identifier: Apache-2.0
"""A model's name is one folder's name, however its path is written."""

import json
import os

import pytest
from tokenprune_cli.app import app
from tokenprune_evaluation.model_name import model_name
from typer.testing import CliRunner

import tokenprune


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """Stand in `zoo/llava`, with `zoo/link` to it and `zoo/llava/deep` in it."""
    (tmp_path / "zoo" / "llava" / "deep").mkdir(parents=True)
    (tmp_path / "zoo" / "link").symlink_to("llava")
    monkeypatch.chdir(tmp_path / "zoo" / "llava")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (None, "embedded"),
        (".", "llava"),
        ("./", "llava"),
        ("", "llava"),
        ("..", "zoo"),
        ("../", "zoo"),
        ("deep", "deep"),
        ("deep/", "deep"),
        ("./deep//", "deep"),
        ("deep/..", "llava"),
        ("deep/.", "deep"),
        ("../link", "llava"),
        ("../link/", "llava"),
        ("../link/..", "zoo"),
        ("/", "model"),
        ("//", "model"),
        ("/..", "model"),
        ("llava-hf/llava-1.5-7b-hf", "llava-1.5-7b-hf"),
        ("gpt2", "gpt2"),
        ("none/.hidden", ".hidden"),
        ("loop", "loop"),
        ("a\0b", "model"),
        ("latin-1-\udce9", "latin-1-_"),
    ],
)
def test_names(inside, given, name):
    os.symlink("loop", "loop")
    assert model_name(given) == name


def test_the_name_of_an_absolute_path(inside, tmp_path):
    assert model_name(str(tmp_path / "zoo" / "link")) == "llava"
    assert model_name(f"{tmp_path}/zoo/llava/../.") == "zoo"


@pytest.mark.skipif(os.name != "posix", reason="elsewhere the working directory cannot be removed")
def test_where_the_working_directory_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert model_name(".") == "model"


@pytest.mark.parametrize(
    "command",
    [
        ["bench", "--random-weights", "--method", "divprune", "--keep", "16", "--batch", "1"]
        + ["--new-tokens", "1", "--repeats", "1"],
        ["demo", "--scenes", "1", "--method", "random", "--keep", "9", "--output", "demo"],
    ],
    ids=lambda command: command[0],
)
def test_other_commands_call_a_model_so_too(command, untrained, tmp_path, monkeypatch):
    (tmp_path / "llava").mkdir()
    for file in untrained.iterdir():
        (tmp_path / "llava" / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path / "llava")
    result = CliRunner().invoke(app, [*command, "--model", ".", "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    named = record["model"]["name"] if command[0] == "bench" else record["model"]
    assert named == "llava"


def test_a_name_that_is_too_long_is_one_sentence(tmp_path):
    for command in (["compare", "--output", str(tmp_path / "out")], ["bench"]):
        result = CliRunner().invoke(app, [*command, "--model", f"{tmp_path}/{'a' * 5000}"])
        assert result.exit_code == 2 and result.stdout == ""
        assert result.stderr.startswith("tokenprune: the ") and result.stderr.count("\n") == 1


def test_methods_whose_names_become_file_names_hold_no_separator():
    assert all("/" not in name and "\\" not in name for name in tokenprune.list_methods())
