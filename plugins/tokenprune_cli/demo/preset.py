# SPDX-License-Identifier: Apache-2.0
"""The demo as a preset of `compare`: few methods and budgets with their defaults, on embedded scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tokenprune
from tokenprune_cli.compare.collected import Collected
from tokenprune_cli.compare.plan import Plan, key, make_plan
from tokenprune_cli.compare.protocols import DEFAULTS
from tokenprune_cli.compare.question_set import QuestionSet
from tokenprune_cli.compare.record import Leader, leaders
from tokenprune_cli.compare.scores import Scores
from tokenprune_cli.compare.table import conclusion
from tokenprune_cli.evaluation.question_file import DEFAULT_METRIC
from tokenprune_cli.evaluation.settings import BASELINES, Setting

RECOMMENDED = "zoo-exact"
METHODS = (RECOMMENDED, "zoo-prune", "divprune", "visionzip", "fastv", "random")
BUDGETS = (36, 18, 9)  # a quarter, an eighth and a sixteenth of the embedded model's 144 visual tokens
FULL_BUDGETS = (72, *BUDGETS)
SCENES, FULL_SCENES = 40, 80  # 40 scenes: 541 questions, intervals of five points or less


def preset(model: Any, full: bool = False, methods: Sequence[str] = (), budgets: Sequence[int] = ()) -> Plan:
    """Return the plan of the demo, or of the methods and budgets that are given.

    Parameters
    ----------
    model
        The unpruned model.
    full
        All installed methods and baselines, those of the short demo first, and one more budget.
    methods, budgets
        Instead of the demo's own.
    """
    more = [*tokenprune.list_methods(), *BASELINES] if full else []
    keeps = budgets or (FULL_BUDGETS if full else BUDGETS)
    return make_plan(model, methods or [*METHODS, *more], keeps, (DEFAULTS,), always=())


def skipped(plan: Plan) -> dict[str, str]:
    """Methods, or a method at one budget, that the model cannot run under, and why."""
    return {**plan.unavailable, **{setting.label: reason for setting, reason in plan.refused.items()}}


def results(
    plan: Plan, questions: QuestionSet, found: Mapping[str, Collected], config: Any
) -> dict[str, Any]:
    """Return accuracy and costs of every setting and the verdicts, as demo.json holds them.

    Parameters
    ----------
    found
        Answers by setting.
    config
        The language model's configuration.
    """
    scores = Scores(questions, {cell: answers.answers for cell, answers in found.items()})
    ranking = leaders(plan.lines, scores, DEFAULT_METRIC)
    return {
        "questions": len(questions.items),
        "results": [_result(s, found[key(s)], scores, config) for s in settings(plan)],
        "verdicts": [_verdict(leader) for leader in ranking],
        "closing_line": closing_line(ranking, RECOMMENDED),
        "skipped": skipped(plan),
    }


def settings(plan: Plan) -> list[Setting]:
    """Return what is run, in the order of the table: unpruned, then by budget, the largest first."""
    return [line.setting for line in plan.lines if line.setting not in plan.refused]


def _result(setting: Setting, found: Collected, scores: Scores, config: Any) -> dict[str, Any]:
    rows, cell = found.visual_rows(config.num_hidden_layers), key(setting)
    counts = scores.questions.families
    return {
        "method": setting.method,
        "keep": setting.keep,
        "accuracy": scores.interval(cell, DEFAULT_METRIC).rounded() | {"n": len(found.answers)},
        "families": {
            name: score.rounded() | {"n": counts[name]} for name, score in scores.families(cell).items()
        },
        "visual_tokens": round(rows[-1], 3),
        "visual_rows": [round(n, 3) for n in rows],
        "kv_cache_bytes": round(found.kv_bytes),
        "prefill_flops": round(found.language_flops(config)),
    }


def _verdict(leader: Leader) -> dict[str, Any]:
    return {
        "keep": leader.keep,
        "best": leader.best,
        "within_noise": leader.not_clearly_below,
        "behind": {method: gap.rounded() for method, gap in leader.behind.items()},
        "sentence": conclusion(leader.keep, leader.best, leader.not_clearly_below, bool(leader.behind)),
    }


def closing_line(ranking: Sequence[Leader], recommended: str) -> str:
    """Say plainly how one method did: clearly the best, not told apart from the best, or behind."""
    places: dict[str, list[str]] = {}
    for leader in ranking:
        if recommended not in {*leader.best, *leader.behind} or len(leader.best) + len(leader.behind) < 2:
            continue  # not there, or nothing to be better than
        if leader.best == [recommended] and not leader.not_clearly_below:
            place = "clearly the best"
        elif recommended in (*leader.best, *leader.not_clearly_below):
            place = "among the best, which noise does not tell apart,"
        else:
            place = "behind the best"
        places.setdefault(place, []).append(str(leader.keep))
    if not places:
        return ""
    parts = [f"{place} at {_listed(budgets)} tokens" for place, budgets in places.items()]
    return f"On these scenes {recommended}, which tokenprune uses by default, is {_listed(parts)}."


def _listed(words: Sequence[str]) -> str:
    """Join words as in: a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
