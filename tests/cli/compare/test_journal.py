# SPDX-License-Identifier: Apache-2.0
"""The journal resumes an interrupted run, and refuses answers of another configuration."""

import json

import pytest
from tokenprune_cli.console.failures import BadInputError
from tokenprune_evaluation.journal import Journal

ABOUT = {"model": "embedded", "seed": 0, "questions": {"n": 3}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "answers.jsonl"


def test_lines_are_read_when_the_journal_is_opened_again(path):
    journal = Journal(path, ABOUT)
    journal.append({"cell": "a", "batch": 0})
    journal.append({"cell": "a", "batch": 1})
    assert Journal(path, ABOUT).lines == [{"cell": "a", "batch": 0}, {"cell": "a", "batch": 1}]
    assert json.loads(path.read_text().splitlines()[0]) == {"configuration": ABOUT}


def test_no_character_of_an_answer_ends_a_line(path):
    answers = ["a\u2028b", "a\u0085b", "a\fb", "a\nb", "a\rb", "\ud800"]
    Journal(path, ABOUT).append({"cell": "a", "batch": 0, "answers": answers})
    path.write_bytes(path.read_bytes() + '{"cell": "\u2028\u0085"}\r\n'.encode())
    assert Journal(path, ABOUT).lines == [
        {"cell": "a", "batch": 0, "answers": answers},
        {"cell": "\u2028\u0085"},
    ]


def test_a_line_cut_short_by_a_kill_is_dropped(path):
    Journal(path, ABOUT).append({"cell": "a", "batch": 0})
    with path.open("a") as file:
        file.write('{"cell": "a", "ba')
    again = Journal(path, ABOUT)
    assert again.lines == [{"cell": "a", "batch": 0}]
    again.append({"cell": "a", "batch": 1})
    assert len(Journal(path, ABOUT).lines) == 2


def test_another_configuration_is_refused_and_the_changes_are_named(path):
    Journal(path, ABOUT)
    with pytest.raises(BadInputError, match=r"another configuration \(seed: 0, now 1\); give another --out"):
        Journal(path, {**ABOUT, "seed": 1})
    with pytest.raises(BadInputError, match=r"batch: null, now 8"):
        Journal(path, {**ABOUT, "batch": 8})


def test_restart_discards_earlier_answers(path):
    Journal(path, ABOUT).append({"cell": "a", "batch": 0})
    assert Journal(path, {**ABOUT, "seed": 1}, restart=True).lines == []
    assert Journal(path, {**ABOUT, "seed": 1}).lines == []


@pytest.mark.parametrize(
    "text",
    ["no json\n", '{"other": 1}\n', "[1]\n", "\n", "[" * 200_000 + "\n", '{"configuration": 1}\n'],
    ids=lambda text: text[:20],
)
def test_a_file_that_is_no_journal_is_refused_and_left_unchanged(path, text):
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(BadInputError, match="holds no answers of tokenprune compare"):
        Journal(path, ABOUT)
    assert path.read_text() == text
