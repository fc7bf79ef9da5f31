# SPDX-License-Identifier: Apache-2.0
"""A complete comparison on an untrained model: the record, and resuming an interrupted run."""

import dataclasses
import json
from contextlib import nullcontext

import pytest
import torch
from tokenprune_cli.bench.clock import Clock
from tokenprune_cli.compare import comparison
from tokenprune_cli.compare.answers import answer, changes
from tokenprune_cli.compare.collected import SettingAnswers, collect
from tokenprune_cli.compare.comparison import compare
from tokenprune_cli.compare.plan import make_plan
from tokenprune_cli.compare.timing import contender, count_flops
from tokenprune_cli.compare.workers import answer_in_processes
from tokenprune_evaluation.costs import prefill_flops
from tokenprune_evaluation.journal import Journal
from tokenprune_evaluation.prompts import tokenized
from tokenprune_evaluation.settings import UNPRUNED, Setting, key


def line_of(record, protocol, method, keep):
    (line,) = [
        line
        for line in record["lines"]
        if (line["protocol"], line["method"], line["keep"]) == (protocol, method, keep)
    ]
    return line


def test_every_line_states_rows_operations_time_and_scores(compared):
    record = compared[0].record
    assert (record["questions"], record["pictures"], record["mean_visual_tokens"]) == (8, 2, 144)
    for line in record["lines"]:
        if line["refused"] is None:
            assert line["time_to_first_token_ms"]["low"] <= line["time_to_first_token_ms"]["median"]
            flops = line["flops"]
            assert flops["total"] == flops["tower"] + flops["choosing"] + flops["language"]
            assert set(line["scores"]["exact_match"]) >= {"value", "low", "high", "of_unpruned"}


def test_rows_are_those_that_enter_the_layers(compared):
    record = compared[0].record
    assert line_of(record, "paper", None, None)["visual_rows"] == {"mean": 144, "by_layer": [[0, 144]]}
    assert line_of(record, "paper", "zoo-exact", 9)["visual_rows"] == {"mean": 9, "by_layer": [[0, 9]]}
    # FastV's layer 2 of 32 is layer 1 of 12: (144 + 11 * 9) / 12
    assert line_of(record, "paper", "fastv", 9)["visual_rows"] == {
        "mean": 20.25,
        "by_layer": [[0, 144], [1, 9]],
    }
    # the nearest to an average of 36 is (144 + 11 * 26) / 12
    assert line_of(record, "matched", "fastv", 36)["visual_rows"]["by_layer"] == [[0, 144], [1, 26]]
    assert line_of(record, "paper", "downsample", 36)["visual_rows"]["mean"] == 36


def test_a_budget_that_cannot_be_reached_says_why(compared):
    record = compared[0].record
    line = line_of(record, "matched", "fastv", 9)
    assert "an average of 9 rows a layer is not possible" in line["refused"]
    assert "the least is 12.9" in line["refused"]
    assert "scores" not in line


def test_an_untrained_model_is_no_better_than_its_pruned_self(compared):
    line = line_of(compared[0].record, "paper", "zoo-exact", 9)["scores"]["exact_match"]
    assert line["value"] == 0 and line["of_unpruned"] is None
    assert line["minus_unpruned"] == {"value": 0, "low": 0, "high": 0}
    leader = compared[0].record["leaders"][0]
    assert leader["best"] == ["zoo-exact", "fastv", "stride", "random", "downsample"]
    assert leader["not_clearly_below"] == []


def test_conversations_are_scored_in_three_ways(compared):
    record = compared[0].record
    assert record["conversation"] == {"pictures": 2, "later_questions": 6}
    line = line_of(record, "paper", "fastv", 9)["conversation"]
    assert set(line) == {"first", "anew", "talking"}
    assert line_of(record, "paper", "fastv", 9)["saw_the_question"]


def test_pictures_of_the_examples_are_drawn(compared, questions):
    found = compared[0]
    n_settings = len({line["cell"] for line in found.record["lines"] if line["refused"] is None})
    assert len(list(found.pictures.glob("*.png"))) == n_settings * len(questions.examples)


class Killed(Exception):
    pass


def test_an_interrupted_run_is_resumed(
    compared, source, questions, options, comparison_request, tmp_path, monkeypatch
):
    comparison_request = dataclasses.replace(comparison_request, conversation=False)
    complete = Journal(compared[1] / comparison.ANSWERS, json.loads(first_line(compared[1]))["configuration"])
    append, written = Journal.append, []

    def append_some(self, line):
        if len(written) == 9:
            raise Killed
        written.append(line)
        append(self, line)

    monkeypatch.setattr(Journal, "append", append_some)
    with pytest.raises(Killed):
        compare(source, questions, options, comparison_request, tmp_path, lambda *_: None)
    monkeypatch.setattr(Journal, "append", append)
    before = (tmp_path / comparison.ANSWERS).read_text()
    steps = []
    again = compare(
        source,
        questions,
        options,
        comparison_request,
        tmp_path,
        lambda what, done, total: steps.append((what, done)),
    )
    assert (tmp_path / comparison.ANSWERS).read_text().startswith(before)
    assert steps[0] == ("answering", 9)
    answered = [line for line in complete.lines if line.get("track") == "questions"]
    mine = Journal(tmp_path / comparison.ANSWERS, again.record["configuration"]).lines
    place = lambda line: (line["cell"], line["track"], line["batch"])  # noqa: E731
    assert sorted((ln for ln in mine if "timing" not in ln), key=place) == sorted(answered, key=place)
    for ours, theirs in zip(again.record["lines"], compared[0].record["lines"], strict=True):
        assert ours.get("scores") == theirs.get("scores")


def first_line(folder):
    return (folder / comparison.ANSWERS).read_text().splitlines()[0]


def test_a_finished_run_runs_nothing_again(compared, source, questions, options, comparison_request):
    before = (compared[1] / comparison.ANSWERS).read_text()
    again = compare(source, questions, options, comparison_request, compared[1], lambda *_: None)
    assert (compared[1] / comparison.ANSWERS).read_text() == before
    assert again.record == compared[0].record


def test_sharing_the_tower_changes_no_line(run, monkeypatch):
    settings = make_plan(run.model, ["zoo-exact", "visionzip", "fastv"], [9], ["paper", "matched"]).settings
    ours = list(answer(run, 1, settings))
    monkeypatch.setattr("tokenprune_cli.compare.answers.shared_tower", nullcontext)
    assert ours == list(answer(run, 1, settings))
    assert len(ours) == len(settings)


def test_processes_answer_what_one_process_answers(run, source, tmp_path):
    options = dataclasses.replace(run.options, pictures=tmp_path)
    run = dataclasses.replace(run, questions=source.load_questions(), options=options)
    settings = (UNPRUNED, Setting("random", 9))
    pending = [("questions", number, settings) for number in range(2)]
    lines = list(answer_in_processes(source, options, pending, 2))
    want = [line for number in range(2) for line in answer(run, number, settings)]
    place = lambda line: (line["batch"], line["cell"])  # noqa: E731
    assert sorted(lines, key=place) == sorted(want, key=place)


def test_rows_are_written_where_they_change():
    assert changes([9, 9, 4, 4, 2]) == [[0, 9], [2, 4], [4, 2]]


def test_lines_are_put_together_in_the_order_of_the_questions(untrained_model):
    config = untrained_model[0].config.text_config
    part = {"cell": "a", "track": "questions", "text": [3], "tokens": [10]}
    lines = [
        {**part, "batch": 1, "answers": ["y"], "rows": [[[0, 9], [6, 5]]], "kv_bytes": 100},
        {**part, "batch": 0, "answers": ["x"], "rows": [[[0, 13]]], "kv_bytes": 300},
        {"cell": "a", "timing": {"flops": {}}},
        {"cell": "b", "batch": 0, "track": "questions", "refused": "no"},
    ]
    found = collect(lines)
    assert found["a"].answers == ["x", "y"] and found["a"].kv_bytes == 200
    assert found["a"].visual_rows(12) == [8.0] * 6 + [6.0] * 6
    want = (prefill_flops(config, 13) + prefill_flops(config, [9] * 6 + [5] * 6)) / 2
    assert found["a"].language_flops(config) == want
    assert found["b"] == SettingAnswers(refused="no")


@pytest.mark.parametrize(
    "setting", [UNPRUNED, Setting("stride", 9), Setting("zoo-exact", 9), Setting("fastv", 9)]
)
def test_operations_by_part(untrained_model, questions, setting):
    model, processor = untrained_model
    item = questions.items[0]
    inputs = tokenized(processor, [questions.open_image(0)], [item.question.text])
    flops = count_flops(model, contender(model, setting, inputs, 0), Clock(torch.device("cpu")))
    assert flops["total"] == flops["tower"] + flops["choosing"] + flops["language"]
    if setting.method in (None, "stride"):
        assert flops["choosing"] == 0
    elif setting.method == "zoo-exact":  # N d_h^2 for g Q, twice for multiply and add, at least
        assert flops["choosing"] > 2 * 144 * 128**2
    else:  # one row of attention of each head: queries times keys
        assert 0 < flops["choosing"] < 1e6
    unpruned = count_flops(model, contender(model, UNPRUNED, inputs, 0), Clock(torch.device("cpu")))
    assert flops["tower"] == unpruned["tower"]
    assert key(setting)
