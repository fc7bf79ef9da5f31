# SPDX-License-Identifier: Apache-2.0
"""What the demo concludes: noise is not read as a win, and a loss of ours is said as plainly as a win."""

import io
import json

import pytest
from rich.console import Console
from tokenprune_cli.demo.outcomes import Outcome, closing_line, verdicts
from tokenprune_cli.demo.plan import Plan
from tokenprune_cli.demo.record import record
from tokenprune_cli.demo.table import markdown_table, runs, terminal_table
from tokenprune_cli.embedded import Question
from tokenprune_cli.evaluation import UNPRUNED, Answered, Costs, Setting

SCENES = 50


def outcome(method, keep, n_right, first=0, scenes=SCENES):
    """One question a scene; `n_right` right answers from scene `first` on."""
    right = {(first + i) % scenes for i in range(n_right)}
    answers = tuple(
        Answered(i, Question("counting", "how many ?", "1"), "1" if i in right else "0", (9,), 4, 9, 64.0)
        for i in range(scenes)
    )
    costs = Costs(4.0, (9.0, 4.0, 4.0), 64.0, 2e6)
    return Outcome(UNPRUNED if method is None else Setting(method, keep), answers, costs)


def test_the_best_comes_first_and_a_clear_gap_is_named():
    (verdict,) = verdicts([outcome(None, None, 50), outcome("a", 9, 20), outcome("b", 9, 40)])
    assert (verdict.keep, verdict.best, verdict.within_noise) == (9, ("b",), ())
    assert (
        str(verdict)
        == "9 tokens: b answers most of 50 right, 80.0 ± 5.7 %; behind: a (40.0 ± 7.0 points behind)."
    )


def test_a_small_gap_is_noise():
    (verdict,) = verdicts([outcome("a", 9, 40), outcome("b", 9, 41, first=15)])
    assert verdict.best == ("b",)
    assert verdict.within_noise == ("a",)
    assert "within noise of it: a (2.0 ±" in str(verdict)


def test_equal_methods_are_named_together():
    (verdict,) = verdicts([outcome("a", 9, 40), outcome("b", 9, 40, first=5), outcome("c", 9, 1)])
    assert verdict.best == ("a", "b")
    assert str(verdict).startswith("9 tokens: a and b answer most, equally many, of 50 right, 80.0")


def test_gaps_are_taken_in_pairs():
    # 10 points apart; unpaired errors of 6 points would hide what 5 questions of 50, all one way, show
    (verdict,) = verdicts([outcome("a", 9, 40), outcome("b", 9, 45)])
    assert verdict.within_noise == ()


def test_each_budget_has_its_verdict_and_unpruned_takes_no_part():
    found = verdicts([outcome(None, None, 50), *(outcome(m, k, 30) for k in (18, 9) for m in ("a", "b"))])
    assert [v.keep for v in found] == [18, 9]
    assert all(v.best == ("a", "b") for v in found)


def test_a_single_method_is_best_without_company():
    (verdict,) = verdicts([outcome("a", 9, 40)])
    assert str(verdict) == "9 tokens: a answers 80.0 ± 5.7 % right."


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
    found = verdicts([outcome("ours", 9, ours), outcome("theirs", 9, others, first)])
    assert closing_line(found, "ours") == f"On these scenes ours, which tokenprune uses by default, {said}"


def test_a_method_alone_is_not_the_best_of_anything():
    assert closing_line(verdicts([outcome("ours", 9, 40)]), "ours") == ""


def test_the_closing_line_joins_budgets():
    runs = [outcome("ours", 18, 45), outcome("b", 18, 20), outcome("ours", 9, 20), outcome("b", 9, 45)]
    said = closing_line(verdicts(runs), "ours")
    assert said.endswith("is clearly the best at 18 tokens and behind the best at 9 tokens.")


def test_nothing_is_said_of_a_method_that_took_no_part():
    assert closing_line(verdicts([outcome("a", 9, 40)]), "ours") == ""


@pytest.fixture
def results():
    runs = [outcome(None, None, 50), outcome("a", 9, 20), outcome("zoo-exact", 9, 40)]
    plan = Plan(tuple(o.setting for o in runs), SCENES, {"cdpruner": "needs clip_text_embeds"})
    return record(plan, runs, command="tokenprune demo", model="embedded", seed=0)


def test_the_record_holds_what_a_reader_needs(results):
    assert results["questions"] == 50
    assert results["held_out_scenes"] == {"first": 0, "count": SCENES}
    assert set(results["versions"]) == {"python", "tokenprune-vlm", "torch", "transformers"}
    assert results["results"][2] == {
        "method": "zoo-exact",
        "keep": 9,
        "accuracy": {"value": 0.8, "standard_error": 0.05714, "n": 50},
        "families": {"counting": {"value": 0.8, "standard_error": 0.05714, "n": 50}},
        "visual_tokens": 4.0,
        "visual_rows": [9.0, 4.0, 4.0],
        "kv_cache_bytes": 64,
        "prefill_flops": 2000000,
    }
    assert results["verdicts"][0]["best"] == ["zoo-exact"]
    assert results["verdicts"][0]["behind"]["a"]["value"] == 0.4
    assert results["skipped"] == {"cdpruner": "needs clip_text_embeds"}
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_an_unknown_error_is_null_in_the_record():
    runs = [outcome(None, None, 1, scenes=1), outcome("a", 9, 1, scenes=1)]
    results = record(Plan(tuple(o.setting for o in runs), 1), runs, command="", model="embedded", seed=0)
    assert results["results"][1]["accuracy"] == {"value": 1.0, "standard_error": None, "n": 1}
    json.dumps(results, allow_nan=False)


def test_the_markdown_table(results):
    assert markdown_table(results).splitlines() == [
        "| method | visual tokens | right, % | counting | KV cache, kB | prefill, MFLOP |",
        "|---|---:|---:|---:|---:|---:|",
        "| unpruned | 4 | 100.0±0.0 | 100.0 | 0 | 2 |",
        "| a | 4 | 40.0±7.0 | 40.0 | 0 | 2 |",
        "| zoo-exact | 4 | 80.0±5.7 | 80.0 | 0 | 2 |",
    ]


def test_the_table_fits_a_terminal_of_80_columns(results):
    for result in results["results"]:
        result["method"] = result["method"] and "sparsevlm-plus"
        for family in ("attribute", "existence", "spatial", "reading"):
            result["families"][family] = {"value": 1.0, "standard_error": 0.0, "n": 9}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal_table(results))
    text = console.export_text()
    assert "…" not in text
    assert "sparsevlm-plus" in text and "100.0±0.0" in text and "MFLOP" in text


def test_the_full_table_shows_rows_per_layer(results):
    table = terminal_table(results, by_layer=True)
    assert [column.header for column in table.columns] == [
        "method",
        "kept",
        "rows per layer",
        "right %",
        "KV kB",
        "MFLOP",
    ]
    assert list(table.columns[2].cells)[1:] == ["9×1 4×2"] * 2
    assert runs([144, 144, 18.2, 18, 4]) == "144×2 18×2 4×1"
