# SPDX-License-Identifier: Apache-2.0
"""The published figures as data, and the page and the commands that are made of them."""

import hashlib
import math

import pytest
from blocks import evaluation
from tokenprune_evaluation.pruning_arguments import read_pruning, read_value
from tokenprune_lmms_eval.loading import split_arguments

NAMES = ("table-b", "table-c", "table-d")


@pytest.mark.parametrize(
    ("name", "rows", "digest"),
    [
        ("table-b", 16, "ad3ce554096831cfc6515b65077f7ca3367b0260ced54364815e035d4bd2e39e"),
        ("table-c", 10, "545b0a6668c045232acc551587d64d8fe7d35c4a1e1fb6efff8fd5d0f2867d45"),
        ("table-d", 43, "9035650301ec0e7f3122fb4e2af30ae6eee54f75d44e305cc670449880719d9c"),
    ],
)
def test_the_figures_are_those_compared_with_the_supplement(name, rows, digest):
    table = evaluation.TABLES[name]
    assert len(evaluation.rows(table)) == rows
    assert hashlib.sha256(table.path.read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(
    ("name", "tokens", "method", "figures", "average"),
    [
        ("table-b", 64, "ZOO-Prune", "58.47 60.22 1675.59 85.86 68.27 75.02 55.35 35.44 55.84", "95.5"),
        ("table-c", 128, "DivPrune", "58.89 66.07 1748.56 86.53 72.83 77.10 58.17 35.56 64.22", "97.0"),
        ("table-d", 160, "Projector", "59.93 64.18 1738.64 83.05 68.42 55.42 37.11 64.05", "95.4"),
        ("table-d", 320, "Layer 13", "60.78 63.83 1712.90 83.76 67.38 52.13 36.67 65.64", "94.7"),
    ],
)
def test_some_rows_by_eye(name, tokens, method, figures, average):
    found = [
        row
        for row in evaluation.rows(evaluation.TABLES[name])
        if (row.tokens, row.method) == (tokens, method)
    ]
    assert [(list(row.figures.values()), row.average) for row in found] == [(figures.split(), average)]


@pytest.mark.parametrize("name", NAMES)
def test_every_published_average_is_that_of_its_row(name):
    rows = evaluation.rows(evaluation.TABLES[name])
    unpruned = {benchmark: float(figure) for benchmark, figure in rows[0].figures.items()}
    assert rows[0].is_baseline and rows[0].average == "100"
    for row in rows:
        shares = [100 * float(figure) / unpruned[benchmark] for benchmark, figure in row.figures.items()]
        assert math.isclose(math.fsum(shares) / len(shares), float(row.average), abs_tol=0.0501), row


def arguments(command):
    """What lmms-eval hands over of a command's `--model_args`."""
    pairs = command.split("--model_args ")[1].split(" ")[0].split(",")
    given = dict(pair.split("=") for pair in pairs)
    return {name: _number(value) for name, value in given.items()}


def _number(text):
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text) if text.isnumeric() else float(text)
    except ValueError:
        return read_value(text)


def test_every_command_is_understood():
    lines = evaluation.records(evaluation.DATA / "commands.csv")
    counts = {}
    for line in lines:
        loading, rest = split_arguments(arguments(line["command"]))
        pruning = read_pruning(rest)
        loading.system_text()  # found without a file of the user's
        assert (pruning is None) == (line["method"] == line["model"])
        assert loading.pretrained.count("/") == 1 and line["measured"] == "not attempted here"
        assert f"--tasks {evaluation.BENCHMARKS[line['benchmark']]['task']} " in line["command"]
        counts[line["table"]] = counts.get(line["table"], 0) + 1
    assert counts == {"table-b": 16 * 9, "table-c": 10 * 9, "table-d": 4 * 8, "": 3 * 9}


@pytest.mark.parametrize(
    ("method", "tokens", "rows"),
    [
        ("FastV", 64, (2 * 576 + 30 * 30) / 32),
        ("FastV", 192, (2 * 576 + 30 * 166) / 32),
        ("SparseVLM", 64, (3 * 576 + 4 * 82 + 9 * 32 + 16 * 18) / 32),
        ("SparseVLM", 192, (3 * 576 + 4 * 309 + 9 * 204 + 16 * 113) / 32),
        ("ZOO-Prune", 64, 64),
        ("LLaVA-1.5-7B", 576, 576),
    ],
)
def test_what_a_nominal_budget_processes(method, tokens, rows):
    found = [
        r for r in evaluation.rows(evaluation.TABLES["table-b"]) if (r.method, r.tokens) == (method, tokens)
    ]
    assert [row.rows_entering() for row in found] == [rows]
