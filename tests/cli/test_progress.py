# SPDX-License-Identifier: Apache-2.0
"""Progress without a terminal: few plain lines on stderr, none on stdout."""

import json

import pytest
from tokenprune_cli.app import app
from tokenprune_cli.console.progress import SECONDS, Lines, ProgressBar
from typer.testing import CliRunner


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_line_at_the_start_at_the_end_and_every_few_seconds(capsys, clock):
    with ProgressBar(clock) as progress:
        for done in range(31):  # a step a second
            progress("answering", done, 30)
            clock.now += 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "answering: 0 of 30",
        "answering: 10 of 30, 10 s",
        "answering: 20 of 30, 20 s",
        "answering: 30 of 30, 30 s",
    ]


def test_the_end_does_not_wait_and_is_not_repeated(capsys, clock):
    lines = Lines(clock)
    for done in (0, 1, 2, 2):
        lines("timing", done, 2)
    clock.now += 2 * SECONDS
    lines("timing", 2, 2)
    assert capsys.readouterr().err == "timing: 0 of 2\ntiming: 2 of 2, 0 s\n"


def test_tasks_have_their_own_lines_and_times(capsys, clock):
    lines = Lines(clock)
    lines("answering", 3, 3)  # all that an earlier run left
    clock.now += 4
    lines("timing", 0, 5)
    clock.now += 11
    lines("timing", 1, 5)
    assert capsys.readouterr().err.splitlines() == [
        "answering: 3 of 3",
        "timing: 0 of 5",
        "timing: 1 of 5, 11 s",
    ]


def test_a_terminal_has_bars_instead(capsys, monkeypatch, clock):
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    with ProgressBar(clock) as progress:
        progress("answering", 1, 2)
    printed = capsys.readouterr().err
    assert "50%" in printed and "answering: 1 of 2" not in printed


def test_a_command_prints_progress_on_stderr_and_json_on_stdout(tmp_path):
    options = ["--method", "divprune", "--keep", "9", "--scenes", "2", "--output", tmp_path, "--json"]
    done = CliRunner().invoke(app, ["demo", *map(str, options)])
    first, *_, last = done.stderr.splitlines()
    assert first.startswith("answering: ") and last.startswith("answering: ")
    n_done, n_total = last.removeprefix("answering: ").split(",")[0].split(" of ")
    assert n_done == n_total
    assert json.loads(done.stdout)["questions"] > 0
