# SPDX-License-Identifier: Apache-2.0
"""The commands that pages show exist: their parsers accept them, and make has the targets. None is run."""

import argparse
import importlib.util
import re
import runpy
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from shown_commands import Shown, commands
from tokenprune_cli.app import app
from typer.core import TyperCommand

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
SHOWN = list(dict.fromkeys(command for page in PAGES for command in commands(page)))
# programs that only records of an earlier version name, and the page that says what they are now
FORMER = {"benchmarks.serving": "serving.md"}


class Parsed(Exception):
    """The command line was parsed, and the program would run now."""


def stop(*_):
    raise Parsed


@pytest.fixture
def parse(monkeypatch, capsys):
    """Return a function that lets a program parse a command; in a sentence, arguments may be left out."""
    original = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(TyperCommand, "invoke", stop)
    monkeypatch.setattr(torch, "set_flush_denormal", lambda mode: None)  # it would stay for other tests
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda *args: stop(original(*args)))

    def parse(program, command):
        first = 1 if command.words[0] != "python" else 3
        words = [word for word in command.words[first:] if word != "..."]
        monkeypatch.setattr(sys, "argv", ["program", *words])
        try:
            program()
        except Parsed:
            return
        except SystemExit as end:
            said = capsys.readouterr().err
            if end.code and (command.complete or not lacks_an_argument(said)):
                pytest.fail(f"{command}: {said}")

    return parse


def started_with(*words):
    return [command for command in SHOWN if command.words[: len(words)] == words]


def lacks_an_argument(said):
    return "Missing " in said or "are required" in said


@pytest.mark.parametrize("command", started_with("tokenprune"), ids=str)
def test_the_command_line_takes_it(command, parse):
    parse(app, command)


@pytest.mark.parametrize("command", started_with("python", "-m"), ids=str)
def test_the_module_exists_and_takes_it(command, parse, monkeypatch):
    name = command.words[2]
    if name in FORMER:
        assert command.page.name == FORMER[name] or command.page.parent.name == "benchmarks"
    elif name.startswith("benchmarks.") and name != "benchmarks.NAME":
        monkeypatch.delitem(sys.modules, f"{name}.__main__", raising=False)  # imported by another test
        parse(lambda: runpy.run_module(name, run_name="__main__"), command)
    else:
        assert importlib.util.find_spec(name.removesuffix(".NAME")) is not None


def targets():
    """The targets of the Makefile; those with % are patterns."""
    rules = re.findall(r"^([\w%. -]+):(?!=)", (ROOT / "Makefile").read_text(), re.M)
    return {target for rule in rules for target in rule.split() if not target.startswith(".")}


@pytest.mark.parametrize("command", started_with("make"), ids=str)
def test_make_has_the_targets(command):
    wanted = [word for word in command.words[1:] if not word.startswith("-") and "=" not in word]
    assert wanted
    for target in wanted:
        assert any(fnmatch(target, known.replace("%", "*")) for known in targets()), command


def test_all_kinds_of_places_are_read(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "A `tokenprune list` and a `tokenprune check --method\nzoo` and `tokenprune.apply`.\n\n"
        "```bash\nX=1 tokenprune run --keep 3 \\\n  --seed 0  # said\ncd there\n```\n\n"
        "```text\n$ tokenprune plugins\nits output\n```\n\n    make test    # all\n"
    )
    assert [(command.words, command.complete) for command in commands(page)] == [
        (("tokenprune", "run", "--keep", "3", "--seed", "0"), True),
        (("cd", "there"), True),
        (("tokenprune", "plugins"), True),
        (("make", "test"), True),
        (("tokenprune", "list"), False),
        (("tokenprune", "check", "--method", "zoo"), False),
    ]


@pytest.mark.parametrize("words", [("chek",), ("check", "--metod", "zoo"), ("bench", "--clients", "many")])
def test_a_command_that_does_not_exist_is_noticed(words, parse):
    command = Shown(ROOT / "README.md", ("tokenprune", *words), complete=True)
    with pytest.raises(pytest.fail.Exception):
        test_the_command_line_takes_it(command, parse)


def test_a_target_that_does_not_exist_is_noticed():
    with pytest.raises(AssertionError):
        test_make_has_the_targets(Shown(ROOT / "README.md", ("make", "tests"), complete=True))
    assert "test-on-%" in targets() and "demo" in targets()
