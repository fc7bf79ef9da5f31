# SPDX-License-Identifier: Apache-2.0
"""The smallest certified budget of each method, by hand and at the command line."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from tokenprune_cli.app import app
from tokenprune_cli.compare.certified import certified_budgets, certified_table, check_certifiable
from tokenprune_cli.compare.collected import SettingAnswers
from tokenprune_cli.compare.plan import Line
from tokenprune_embedded import Question
from tokenprune_evaluation.errors import BadInputError
from tokenprune_evaluation.question_set import Item, QuestionSet
from tokenprune_evaluation.settings import UNPRUNED, Setting
from typer.testing import CliRunner

N = 120


@pytest.fixture(scope="module")
def questions():
    """Two questions about each picture."""
    items = tuple(Item(i // 2, Question("", "?", "a"), ("a",), "exact_match") for i in range(2 * N))
    return QuestionSet("some", items, lambda i: None, "digest")


def line(method, keep, refused=None):
    scores = {"scores": {"exact_match": {"value": 0.5}}} if refused is None else {}
    named = {"protocol": "paper", "method": method, "keep": keep, "cell": f"{method} {keep}"}
    return {**named, "refused": refused, **scores}


def answered(n_different):
    return SettingAnswers(["b"] * n_different + ["a"] * (2 * N - n_different))


def test_budgets_by_hand(questions):
    answers = {
        "unpruned": answered(0),
        "careful 72": answered(2),
        "careful 36": answered(4),
        "careful 18": answered(200),
        "careless 72": answered(200),
        "careless 36": answered(0),  # not tested: a larger budget fails
    }
    lines = [line(*cell.split()[:1], int(cell.split()[1])) for cell in answers if cell != "unpruned"]
    entries = certified_budgets([*lines, line("never", 9, "refused")], questions, answers, 0.1, seed=0)
    assert [(entry["method"], entry["keep"]) for entry in entries] == [("careful", 36), ("careless", None)]
    assert entries[0]["disagreement"] == pytest.approx(4 / (2 * N), abs=1e-5)
    assert entries[0]["disagreement"] < entries[0]["upper_bound"] <= 0.1
    record = {"metrics": ["exact_match"], "lines": lines, "certified": {"limit": 0.1, "methods": entries}}
    rows = certified_table(record, "paper").rows
    assert [row[:2] for row in rows] == [["careful", "36"], ["careless", "none"]]


def test_hopeless_limits_are_refused(questions):
    lines = [Line("paper", UNPRUNED), *(Line("paper", Setting(f"m{i}", 9)) for i in range(4))]
    plan = SimpleNamespace(lines=lines)
    check_certifiable(0.1, plan, questions)
    with pytest.raises(BadInputError, match="with 4 methods .* takes at least .* there are 120"):
        check_certifiable(0.02, plan, questions)
    for limit in (0.0, 1.0, np.nan):
        with pytest.raises(BadInputError, match="above 0 and below 1"):
            check_certifiable(limit, plan, questions)


def test_compare_certifies(tmp_path):
    words = ["compare", "--method", "divprune", "--keep", "72", "--protocol", "matched", "--scenes", "16"]
    words += ["--certify", "0.7", "--output", str(tmp_path), "--workers", "1", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    certified = json.loads(done.stdout)["models"][0]["certified"]
    assert certified["limit"] == 0.7 and certified["confidence"] == 0.95
    assert {entry["method"] for entry in certified["methods"]} >= {"divprune", "stride", "random"}
    assert "smallest budget certified to disagree" in (tmp_path / "report.html").read_text()
