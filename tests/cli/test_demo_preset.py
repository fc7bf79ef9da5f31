# SPDX-License-Identifier: Apache-2.0
"""The demo as a preset of `compare`: what it runs, what it leaves out and why, and what it concludes."""

import io
import json

import numpy as np
import pytest
from rich.console import Console
from tokenprune_cli.compare import bootstrap
from tokenprune_cli.compare.collected import Collected
from tokenprune_cli.compare.plan import Line, Plan, key
from tokenprune_cli.compare.protocols import DEFAULTS
from tokenprune_cli.compare.question_set import Item, QuestionSet, embedded_scenes
from tokenprune_cli.compare.record import Leader, leaders
from tokenprune_cli.compare.scores import Scores
from tokenprune_cli.demo.pictures import columns, examples
from tokenprune_cli.demo.preset import (
    BUDGETS,
    METHODS,
    RECOMMENDED,
    closing_line,
    preset,
    results,
    settings,
    skipped,
)
from tokenprune_cli.demo.table import right, runs, terminal_table
from tokenprune_cli.evaluation.costs import prefill_flops
from tokenprune_cli.evaluation.settings import UNPRUNED, Setting
from tokenprune_embedded import FAMILIES, Question

import tokenprune

SCENES = 50


def test_the_short_demo(untrained_model):
    plan = preset(untrained_model[0])
    assert settings(plan) == [UNPRUNED, *(Setting(m, k) for k in BUDGETS for m in METHODS)]
    assert skipped(plan) == {}


def test_the_recommended_method_is_what_apply_does_by_default(untrained_model):
    with tokenprune.apply(untrained_model[0], keep=9) as handle:
        assert handle.cuts[0].method.name == RECOMMENDED


def test_the_full_demo_takes_every_method_the_model_can_use(untrained_model):
    plan = preset(untrained_model[0], full=True, budgets=[9])
    methods = [setting.method for setting in settings(plan)[1:]]
    assert {*methods, *skipped(plan)} == {*tokenprune.list_methods(), "downsample"}
    assert "downsample" in methods
    assert methods[: len(METHODS)] == list(METHODS)
    assert "clip_text_embeds" in skipped(plan)["cdpruner"]


def test_choices_are_put_in_order(untrained_model):
    plan = preset(untrained_model[0], methods=["random", "stride", "random"], budgets=[5, 70, 5])
    assert settings(plan) == [UNPRUNED, *(Setting(m, k) for k in (70, 5) for m in ("random", "stride"))]


def test_a_budget_out_of_reach_is_left_out():
    (a, b), reason = (Setting("a", keep) for keep in (9, 1)), "too few"
    plan = Plan(tuple(Line(DEFAULTS, s) for s in (UNPRUNED, a, b)), {b: reason}, {"c": "no signal"})
    assert settings(plan) == [UNPRUNED, a]
    assert skipped(plan) == {"c": "no signal", "a, 1 tokens": reason}


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


def ranking(*runs, scenes=SCENES):
    """Leaders of runs: (method, keep, number of right answers, first of them)."""
    lines = [Line(DEFAULTS, Setting(method, keep)) for method, keep, *_ in runs]
    answers = {key(Setting(method, keep)): answered(*rest, scenes=scenes) for method, keep, *rest in runs}
    unpruned = {key(UNPRUNED): answered(scenes, scenes=scenes)}
    return leaders(
        [Line(DEFAULTS, UNPRUNED), *lines], Scores(asked(scenes), answers | unpruned), "exact_match"
    )


def test_the_best_comes_first_and_a_clear_gap_is_named():
    (leader,) = ranking(("a", 9, 20), ("b", 9, 40))
    assert (leader.keep, leader.best, leader.not_clearly_below) == (9, ["b"], [])
    gap = leader.behind["a"]
    assert gap.value == pytest.approx(0.4)
    sums = [np.stack([np.array([a == "1" for a in answered(n)]), np.ones(SCENES)], 1) for n in (40, 20)]
    assert gap == bootstrap.difference(*sums, bootstrap.draws(SCENES))
    assert 0.25 < gap.low < 0.3 and 0.5 < gap.high < 0.55  # 0.4 -+ 1.96 sqrt(0.4 * 0.6 / 50)


def test_a_small_gap_is_noise():
    (leader,) = ranking(("a", 9, 40), ("b", 9, 41, 15))
    assert leader.best == ["b"]
    assert leader.not_clearly_below == ["a"]


def test_gaps_are_taken_in_pairs():
    # 10 points apart; unpaired errors of 6 points would hide what 5 questions of 50, all one way, show
    (leader,) = ranking(("a", 9, 40), ("b", 9, 45))
    assert leader.not_clearly_below == []


def test_each_budget_has_its_leaders_and_unpruned_takes_no_part():
    found = ranking(*((m, k, 30) for k in (18, 9) for m in ("a", "b")))
    assert [leader.keep for leader in found] == [18, 9]
    assert all(leader.best == ["a", "b"] and leader.behind == {} for leader in found)


def test_one_picture_tells_nothing_apart():
    (leader,) = ranking(("a", 9, 1), ("b", 9, 0), scenes=1)
    assert leader.not_clearly_below == ["b"] and leader.behind["b"].low is None


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
    found = ranking(("ours", 9, ours), ("theirs", 9, others, first))
    assert closing_line(found, "ours") == f"On these scenes ours, which tokenprune uses by default, {said}"


def test_the_closing_line_joins_budgets():
    found = ranking(("ours", 18, 45), ("b", 18, 20), ("ours", 9, 20), ("b", 9, 45))
    said = closing_line(found, "ours")
    assert said.endswith("is clearly the best at 18 tokens and behind the best at 9 tokens.")


def test_nothing_is_said_of_a_method_alone_or_that_took_no_part():
    assert closing_line([Leader(DEFAULTS, 9, ["ours"], {})], "ours") == ""
    assert closing_line(ranking(("a", 9, 40), ("b", 9, 20)), "ours") == ""


@pytest.fixture
def record(untrained_model):
    runs = {UNPRUNED: 50, Setting("a", 9): 20, Setting("zoo-exact", 9): 40}
    plan = Plan(tuple(Line(DEFAULTS, s) for s in runs), {}, {"cdpruner": "needs clip_text_embeds"})
    found = {
        key(setting): Collected(
            answered(n), [[[0, 24], [6, 19]]] * SCENES, [15] * SCENES, [9] * SCENES, kv_bytes=64.4
        )
        for setting, n in runs.items()
    }
    return results(plan, asked(), found, untrained_model[0].config.text_config)


def test_the_record_holds_what_a_reader_needs(record, untrained_model):
    accuracy = {"value": 0.8, "low": 0.68, "high": 0.9, "n": 50}
    assert record["questions"] == 50
    assert record["results"][2] == {
        "method": "zoo-exact",
        "keep": 9,
        "accuracy": accuracy,
        "families": {"counting": accuracy},
        "visual_tokens": 4.0,
        "visual_rows": [9.0] * 6 + [4.0] * 6,
        "kv_cache_bytes": 64,
        "prefill_flops": prefill_flops(untrained_model[0].config.text_config, [24] * 6 + [19] * 6),
    }
    (verdict,) = record["verdicts"]
    assert verdict["best"] == ["zoo-exact"] and verdict["within_noise"] == []
    assert verdict["behind"]["a"]["value"] == 0.4
    assert verdict["sentence"] == "keep 9: zoo-exact is highest; all others are clearly below"
    assert record["skipped"] == {"cdpruner": "needs clip_text_embeds"}
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_the_table_fits_a_terminal_of_80_columns(record):
    for result in record["results"]:
        result["method"] = result["method"] and "sparsevlm-plus"
        result["accuracy"] = {"value": 0.998, "low": 0.994, "high": 1.0}
        result["kv_cache_bytes"], result["prefill_flops"], result["visual_tokens"] = 1903e3, 743e6, 144
        for family in FAMILIES:
            result["families"][family] = {"value": 1.0}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal_table(record).rich())
    text = console.export_text()
    assert "…" not in text
    assert "sparsevlm-plus" in text and "99.8 99-100" in text and "FLOP" in text


def test_the_best_stand_in_bold(record):
    assert terminal_table(record).styles == {2: "bold"}


def test_the_full_table_shows_rows_per_layer(record):
    table = terminal_table(record, by_layer=True)
    assert table.heads == ["method", "kept", "rows per layer", "right %", "KV\nkB", "M\nFLOP"]
    assert [row[2] for row in table.rows] == ["9×6 4×6"] * 3
    assert runs([144, 144, 18.2, 18, 4]) == "144×2 18×2 4×1"


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.687, 0.742, "71.5 69-74"), (None, None, "71.5"), (0.715, 0.715, "71.5")]
)
def test_accuracy_with_its_interval(low, high, said):
    assert right({"value": 0.7153, "low": low, "high": high}) == said
