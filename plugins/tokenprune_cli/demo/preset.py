# SPDX-License-Identifier: Apache-2.0
"""The demo as a preset of `compare`: a few methods and budgets with default options, on embedded scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenprune_evaluation.question_set import QuestionSet
from tokenprune_evaluation.settings import BASELINES

import tokenprune
from tokenprune_cli.compare.collected import SettingAnswers
from tokenprune_cli.compare.enough import too_few
from tokenprune_cli.compare.plan import Plan, make_plan
from tokenprune_cli.compare.protocols import DEFAULTS
from tokenprune_cli.compare.record import model_record
from tokenprune_cli.compare.scoring import Scores
from tokenprune_cli.compare.table import conclusions

RECOMMENDED = "zoo-exact"
METHODS = (RECOMMENDED, "zoo-prune", "divprune", "tower-diverse", "visionzip", "fastv", "random")
BUDGETS = (36, 18, 9)  # a quarter, an eighth and a sixteenth of the embedded model's 144 visual tokens
FULL_BUDGETS = (72, *BUDGETS)
SCENES, FULL_SCENES = 40, 80  # 40 scenes: 541 questions, intervals of five points or less


def preset(model: Any, full: bool = False, methods: Sequence[str] = (), budgets: Sequence[int] = ()) -> Plan:
    """Return the plan of the demo, or of other methods and budgets.

    Parameters
    ----------
    model
        The unpruned model.
    full
        Add all installed methods and baselines, after those of the short demo, and one more budget.
    methods, budgets
        Replace the demo's methods and budgets.
    """
    added = [*tokenprune.list_methods(), *BASELINES] if full else []
    keeps = budgets or (FULL_BUDGETS if full else BUDGETS)
    return make_plan(model, methods or [*METHODS, *added], keeps, (DEFAULTS,), always=())


def results(
    plan: Plan, questions: QuestionSet, answers: Mapping[str, SettingAnswers], config: Any
) -> dict[str, Any]:
    """Return the record of a comparison, with intervals for each family of questions and conclusions.

    The parameters are those of `model_record`; all settings in `answers` have been answered.
    """
    record = model_record(plan, questions, answers, config)
    scores = Scores(questions, {cell: collected.answers for cell, collected in answers.items()})
    for line in record["lines"]:
        if line["refused"] is None:
            families = scores.families(line["cell"])
            line["families"] = {name: score.rounded() for name, score in families.items()}
    return {
        **record,
        "families": questions.families,
        "conclusions": conclusions(record, DEFAULTS),
        "closing_line": closing_line(record["leaders"] if too_few(record) is None else []),
    }


def closing_line(leaders: Sequence[Mapping[str, Any]], recommended: str = RECOMMENDED) -> str:
    """Say at which budgets a method is clearly the best, among the best, or behind the best."""
    places: dict[str, list[str]] = {}
    for at in leaders:
        if recommended not in {*at["best"], *at["behind"]} or len(at["best"]) + len(at["behind"]) < 2:
            continue  # the method did not take part, or was the only one
        if at["best"] == [recommended] and not at["not_clearly_below"]:
            place = "clearly the best"
        elif recommended in (*at["best"], *at["not_clearly_below"]):
            place = "among the best, which noise does not tell apart,"
        else:
            place = "behind the best"
        places.setdefault(place, []).append(str(at["keep"]))
    if not places:
        return ""
    parts = [f"{place} at {_listed(budgets)} tokens" for place, budgets in places.items()]
    return f"On these scenes {recommended}, which tokenprune uses by default, is {_listed(parts)}."


def _listed(words: Sequence[str]) -> str:
    """Join words as in "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
