# SPDX-License-Identifier: Apache-2.0
"""The commands with the embedded model: right answers, and accuracy that falls with the budget."""

import json

import pytest
from tokenprune_cli.app import app
from typer.testing import CliRunner


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    output = tmp_path_factory.mktemp("demo")
    methods = ("--method", "zoo-exact", "--method", "random")
    options = ("--scenes", 20, *methods, "--keep", 72, "--keep", 9)
    return json.loads(invoke("demo", "--output", output, "--json", *options).stdout)


def test_run_answers_from_a_quarter_of_the_tokens(photo, scenes):
    question = next(q for q in scenes[0][1] if q.family == "attribute")
    result = invoke("run", "--image", photo, "--prompt", question.text, "--keep", 36)
    assert result.stdout.splitlines()[0] == question.answer
    assert result.stderr == ""


def test_words_the_model_does_not_know_are_mentioned(photo):
    result = invoke("run", "--image", photo, "--prompt", "who painted this ?", "--keep", 36, "--json")
    assert "knows only the words of its synthetic scenes" in result.stderr
    json.loads(result.stdout)


def test_unpruned_answers_are_mostly_right(results):
    unpruned = results["lines"][0]
    assert unpruned["method"] is None
    assert unpruned["scores"]["exact_match"]["value"] > 0.85
    assert set(unpruned["families"]) == {"attribute", "existence", "counting", "spatial", "reading"}


def test_accuracy_falls_with_the_budget(results):
    lines = results["lines"]
    accuracy = {(o["method"], o["keep"]): o["scores"]["exact_match"]["value"] for o in lines}
    for method in ("zoo-exact", "random"):
        assert accuracy[None, None] > accuracy[method, 72] - 0.02
        assert accuracy[method, 72] > accuracy[method, 9] + 0.1


def test_choosing_beats_chance_at_a_sixteenth(results):
    (few,) = [leader for leader in results["leaders"] if leader["keep"] == 9]
    assert few["best"] == ["zoo-exact"]
    assert few["behind"]["random"]["low"] > 0
