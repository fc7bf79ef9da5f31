# SPDX-License-Identifier: Apache-2.0
"""The demo as a preset of `compare`: what it runs, what it leaves out and why, and what it concludes."""

import io
import json

import numpy as np
import pytest
from rich.console import Console
from tokenprune_cli.compare import bootstrap
from tokenprune_cli.compare.collected import SettingAnswers
from tokenprune_cli.compare.plan import Line, Plan
from tokenprune_cli.compare.protocols import DEFAULTS
from tokenprune_cli.demo.pictures import columns, examples
from tokenprune_cli.demo.preset import BUDGETS, METHODS, RECOMMENDED, closing_line, preset, results
from tokenprune_cli.demo.table import demo_table, right, runs
from tokenprune_embedded import FAMILIES, Question
from tokenprune_evaluation.costs import prefill_flops
from tokenprune_evaluation.question_set import Item, QuestionSet, embedded_scenes
from tokenprune_evaluation.settings import UNPRUNED, Setting, key
from transformers import LlamaConfig

import tokenprune

SCENES = 50
CONFIG = LlamaConfig(num_hidden_layers=12)


def test_the_short_demo(untrained_model):
    plan = preset(untrained_model[0])
    assert list(plan.settings) == [UNPRUNED, *(Setting(m, k) for k in BUDGETS for m in METHODS)]
    assert plan.unavailable == {} == plan.refused


def test_the_recommended_method_is_what_apply_does_by_default(untrained_model):
    with tokenprune.apply(untrained_model[0], keep=9) as handle:
        assert handle.cuts[0].method.name == RECOMMENDED


def test_the_full_demo_takes_every_method_the_model_can_use(untrained_model):
    plan = preset(untrained_model[0], full=True, budgets=[9])
    methods = [setting.method for setting in plan.settings[1:]]
    assert {*methods, *plan.unavailable} == {*tokenprune.list_methods(), "downsample"}
    assert "downsample" in methods
    assert methods[: len(METHODS)] == list(METHODS)
    assert "clip_text_embeds" in plan.unavailable["cdpruner"]


def test_choices_are_put_in_order(untrained_model):
    plan = preset(untrained_model[0], methods=["random", "stride", "random"], budgets=[5, 70, 5])
    assert list(plan.settings) == [UNPRUNED, *(Setting(m, k) for k in (70, 5) for m in ("random", "stride"))]


def test_examples_have_a_family_and_a_scene_each():
    questions = embedded_scenes(40)
    chosen = [questions.items[number] for number in examples(questions)]
    assert [item.question.family for item in chosen] == list(FAMILIES)
    assert len({item.image for item in chosen}) == len(FAMILIES)
    assert len(examples(embedded_scenes(1))) == 1


def test_a_picture_for_each_method_and_each_budget():
    a, b, c = Setting("a", 9), Setting("b", 9), Setting("a", 4)
    assert columns([UNPRUNED, a, b, c]) == {
        "a.png": {"unpruned": UNPRUNED, "a, 9 tokens": a, "a, 4 tokens": c},
        "b.png": {"unpruned": UNPRUNED, "b, 9 tokens": b},
        "all-methods-9-tokens.png": {"unpruned": UNPRUNED, "a, 9 tokens": a, "b, 9 tokens": b},
        "all-methods-4-tokens.png": {"unpruned": UNPRUNED, "a, 4 tokens": c},
    }


def asked(scenes=SCENES):
    """One question a scene."""
    items = tuple(Item(i, Question("counting", "?", "1"), ("1",), "exact_match") for i in range(scenes))
    return QuestionSet("by hand", items, lambda i: None, "")


def answered(n_right, first=0, scenes=SCENES):
    """`n_right` right answers from scene `first` on."""
    wrong = {(first + i) % scenes for i in range(n_right, scenes)}
    return ["0" if i in wrong else "1" for i in range(scenes)]


def recorded(*runs, scenes=SCENES, refused=(), unavailable=()):
    """The record of runs: (method, keep, number of right answers, first of them)."""
    answers = {Setting(method, keep): answered(*rest, scenes=scenes) for method, keep, *rest in runs}
    answers = {UNPRUNED: answered(scenes, scenes=scenes), **answers}
    lines = tuple(Line(DEFAULTS, setting) for setting in (*answers, *dict(refused)))
    found = {
        key(setting): SettingAnswers(
            texts, [((0, 24), (6, 19))] * scenes, [15] * scenes, [9] * scenes, kv_bytes=64.4
        )
        for setting, texts in answers.items()
    }
    return results(Plan(lines, dict(refused), dict(unavailable)), asked(scenes), found, CONFIG)


def ranking(*runs, scenes=SCENES):
    return recorded(*runs, scenes=scenes)["leaders"]


def test_the_best_comes_first_and_a_clear_gap_is_named():
    (leader,) = ranking(("divprune", 9, 20), ("fastv", 9, 40))
    assert (leader["keep"], leader["best"], leader["not_clearly_below"]) == (9, ["fastv"], [])
    assert leader["clearly_below"] == ["divprune"]
    gap = leader["behind"]["divprune"]
    assert gap["value"] == 0.4
    sums = [np.stack([np.array([a == "1" for a in answered(n)]), np.ones(SCENES)], 1) for n in (40, 20)]
    assert gap == bootstrap.interval(*sums).rounded()
    assert 0.25 < gap["low"] < 0.3 and 0.5 < gap["high"] < 0.55  # 0.4 -+ 1.96 sqrt(0.4 * 0.6 / 50)


def test_a_small_gap_is_noise():
    (leader,) = ranking(("divprune", 9, 40), ("fastv", 9, 41, 15))
    assert leader["best"] == ["fastv"]
    assert leader["not_clearly_below"] == ["divprune"]


def test_gaps_are_taken_in_pairs():
    # 10 points apart; unpaired errors of 6 points would hide what 5 questions of 50, all one way, show
    (leader,) = ranking(("divprune", 9, 40), ("fastv", 9, 45))
    assert leader["not_clearly_below"] == []


def test_each_budget_has_its_leaders_and_unpruned_takes_no_part():
    leaders = ranking(*((m, k, 30) for k in (18, 9) for m in ("divprune", "fastv")))
    assert [leader["keep"] for leader in leaders] == [18, 9]
    assert all(leader["best"] == ["divprune", "fastv"] and leader["behind"] == {} for leader in leaders)


def test_one_picture_tells_nothing_apart():
    (leader,) = ranking(("divprune", 9, 1), ("fastv", 9, 0), scenes=1)
    assert leader["not_clearly_below"] == ["fastv"] and leader["behind"]["fastv"]["low"] is None


@pytest.mark.parametrize(
    ("ours", "others", "said"),
    [
        (45, 20, "is clearly the best at 9 tokens."),
        (41, 40, "is among the best, which noise does not tell apart, at 9 tokens."),
        (40, 40, "is among the best, which noise does not tell apart, at 9 tokens."),
        (39, 40, "is among the best, which noise does not tell apart, at 9 tokens."),
        (20, 45, "is behind the best at 9 tokens."),
    ],
)
def test_the_closing_line_is_honest(ours, others, said):
    first = 15 if abs(ours - others) == 1 else 0
    leaders = ranking(("zoo-exact", 9, ours), ("fastv", 9, others, first))
    assert closing_line(leaders) == f"On these scenes zoo-exact, which tokenprune uses by default, {said}"


def test_the_closing_line_joins_budgets():
    leaders = ranking(("zoo-exact", 18, 45), ("fastv", 18, 20), ("zoo-exact", 9, 20), ("fastv", 9, 45))
    assert closing_line(leaders).endswith("is clearly the best at 18 tokens and behind the best at 9 tokens.")


def test_nothing_is_said_of_a_method_alone_or_that_took_no_part():
    assert closing_line(ranking(("zoo-exact", 9, 40))) == ""
    assert closing_line(ranking(("divprune", 9, 40), ("fastv", 9, 20))) == ""


@pytest.fixture
def record():
    return recorded(
        ("divprune", 9, 20), ("zoo-exact", 9, 40), unavailable={"cdpruner": "needs clip_text_embeds"}
    )


def test_the_record_holds_what_a_reader_needs(record):
    accuracy = {"value": 0.8, "low": 0.68, "high": 0.9}
    assert (record["questions"], record["families"]) == (50, {"counting": 50})
    line = record["lines"][2]
    assert (line["method"], line["keep"], line["families"]) == ("zoo-exact", 9, {"counting": accuracy})
    assert {end: line["scores"]["exact_match"][end] for end in accuracy} == accuracy
    assert line["visual_rows"] == {"mean": 6.5, "by_layer": [[0, 9.0], [6, 4.0]]}
    assert line["kv_bytes"] == 64
    assert line["flops"] == {"language": prefill_flops(CONFIG, [24] * 6 + [19] * 6)}
    (leader,) = record["leaders"]
    assert leader["best"] == ["zoo-exact"] and leader["behind"]["divprune"]["value"] == 0.4
    assert record["conclusions"] == ["keep 9: zoo-exact is highest; all others are clearly below"]
    assert record["unavailable"] == {"cdpruner": "needs clip_text_embeds"}
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_a_budget_out_of_reach_says_so():
    record = recorded(("divprune", 9, 20), refused={Setting("fastv", 1): "too few"})
    assert demo_table(record).rows[-1] == ["fastv ?", "no", "[1]", "", "", ""]
    assert [leader["keep"] for leader in record["leaders"]] == [9]


def test_the_table_fits_a_terminal_of_80_columns(record):
    record["families"] = dict.fromkeys(FAMILIES, 10)
    for line in record["lines"]:
        line["method"] = line["method"] and "sparsevlm-plus"
        line["saw_the_question"] = True
        line["scores"]["exact_match"] = {"value": 0.998, "low": 0.994, "high": 1.0}
        line["kv_bytes"], line["flops"] = 1903e3, {"language": 743e6}
        line["visual_rows"]["by_layer"] = [[0, 144]]
        line["families"] = dict.fromkeys(FAMILIES, {"value": 1.0})
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(demo_table(record).rich())
    text = console.export_text()
    assert "…" not in text
    assert "sparsevlm-plus" in text and "99.8 99-100" in text and "FLOP" in text


def test_the_best_stand_in_bold(record):
    assert [row for row, style in demo_table(record).styles.items() if style == "bold"] == [3]


def test_the_full_table_shows_rows_per_layer(record):
    table = demo_table(record, by_layer=True)
    assert table.heads == ("method", "kept", "rows per layer", "right %", "KV\nkB", "M\nFLOP")
    assert [row[2] for row in table.rows if len(row) > 1] == ["9×6 4×6"] * 3
    assert runs([144, 144, 18.2, 18, 4]) == "144×2 18×2 4×1"


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.687, 0.742, "71.5 69-74"), (None, None, "71.5"), (0.715, 0.715, "71.5")]
)
def test_accuracy_with_its_interval(low, high, said):
    assert right({"value": 0.7153, "low": low, "high": high}) == said
