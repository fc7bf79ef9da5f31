# SPDX-License-Identifier: Apache-2.0
"""What a comparison measured on one model, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tokenprune_evaluation.question_set import QuestionSet
from tokenprune_evaluation.settings import UNPRUNED, key

from tokenprune_cli.compare.answers import changes
from tokenprune_cli.compare.collected import SettingAnswers
from tokenprune_cli.compare.conversation import conversations, later
from tokenprune_cli.compare.plan import RANDOM, Line, Plan
from tokenprune_cli.compare.protocols import saw_the_question
from tokenprune_cli.compare.scoring import Scores


def model_record(
    plan: Plan, questions: QuestionSet, answers: Mapping[str, SettingAnswers], config: Any
) -> dict[str, Any]:
    """Return the scores and costs of each line of the plan, and the best methods at each budget.

    Parameters
    ----------
    answers
        The answers by setting, or the reason why the model refused it.
    config
        The language model's configuration.
    """
    scores = Scores(questions, {cell: c.answers for cell, c in answers.items() if c.refused is None})
    lines = [_line(line, plan, answers, scores, config) for line in plan.lines]
    for line in lines:
        if line["refused"] is None:
            line["scores"] = scores_of(line, lines, scores)
    unpruned = answers[key(UNPRUNED)]
    return {
        "questions": len(questions.items),
        "pictures": questions.n_images,
        "metrics": list(questions.metrics),
        "mean_visual_tokens": round(sum(unpruned.tokens) / len(unpruned.tokens), 2),
        "layers": config.num_hidden_layers,
        "unavailable": plan.unavailable,
        "lines": lines,
        "leaders": _leaders(lines, scores, questions.metrics[0]),
    }


def _line(
    line: Line, plan: Plan, answers: Mapping[str, SettingAnswers], scores: Scores, config: Any
) -> dict[str, Any]:
    setting, cell = line.setting, key(line.setting)
    collected = answers.get(cell, SettingAnswers(refused=plan.refused.get(setting)))
    entry: dict[str, Any] = {
        "protocol": line.protocol,
        "method": setting.method,
        "keep": setting.keep,
        "options": dict(setting.options),
        "cell": cell,
        "saw_the_question": saw_the_question(setting.method),
        "refused": collected.refused,
    }
    if collected.refused is not None:
        return entry
    rows = collected.visual_rows(config.num_hidden_layers)
    timing = collected.timing or {}
    flops = {**timing.get("flops", {}), "language": round(collected.language_flops(config))}
    if timing:
        flops["total"] = flops["tower"] + flops["choosing"] + flops["language"]
    return {
        **entry,
        "visual_rows": {
            "mean": round(sum(rows) / len(rows), 3),
            "by_layer": [[i, round(n, 2)] for i, n in changes(rows)],
        },
        "kv_bytes": round(collected.kv_bytes),
        **timing,
        "flops": flops,
        "families": {name: round(score.value, 5) for name, score in scores.families(cell).items()},
    }


def scores_of(
    line: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], scores: Scores
) -> dict[str, dict[str, Any]]:
    """Return the scores of a line by metric, also relative to the unpruned model and to random tokens.

    `lines` are all lines of the record, with the one of random tokens at the same budget.
    """
    cell, place = line["cell"], (line["protocol"], line["keep"], RANDOM)
    reached = [other for other in lines if other["refused"] is None]
    matches = (o["cell"] for o in reached if (o["protocol"], o["keep"], o["method"]) == place)
    random = next(matches, None)

    def above(other: str | None, metric: str) -> dict[str, Any] | None:
        return None if other in (None, cell) else scores.interval(cell, metric, above=other).rounded()

    by_metric = {}
    for metric in scores.questions.metrics:
        score, unpruned = scores.interval(cell, metric), scores.interval(key(UNPRUNED), metric)
        by_metric[metric] = {
            **score.rounded(),
            "of_unpruned": round(score.value / unpruned.value, 5) if unpruned.value else None,
            "minus_unpruned": above(key(UNPRUNED), metric),
            "minus_random": above(random, metric),
        }
    return by_metric


def _leaders(lines: Sequence[Mapping[str, Any]], scores: Scores, metric: str) -> list[dict[str, Any]]:
    """Return the best methods for each protocol and budget, and the differences of the others to them.

    A method is clearly below the best if the interval of the difference does not contain 0.
    """
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for line in lines:
        if line["method"] is not None and line["refused"] is None:
            groups.setdefault((line["protocol"], line["keep"]), []).append(line)
    leaders = []
    for (protocol, keep), group in groups.items():
        highest = max(line["scores"][metric]["value"] for line in group)
        best = [line for line in group if line["scores"][metric]["value"] == highest]
        behind = {
            line["method"]: scores.interval(best[0]["cell"], metric, above=line["cell"])
            for line in group
            if line not in best
        }
        leaders.append(
            {
                "protocol": protocol,
                "keep": keep,
                "best": [line["method"] for line in best],
                "not_clearly_below": [method for method, gap in behind.items() if not gap.is_clear],
                "clearly_below": [method for method, gap in behind.items() if gap.is_clear],
                "behind": {method: gap.rounded() for method, gap in behind.items()},
            }
        )
    return leaders


def add_conversations(
    record: dict[str, Any], questions: QuestionSet, answers: Mapping[str, SettingAnswers], seed: int
) -> None:
    """Add the scores of the conversation track to a record: first questions, and later ones in both ways."""
    turns = conversations(questions, seed)
    first = replace(questions, items=tuple(questions.items[numbers[0]] for numbers in turns))
    rest = later(questions, seed)
    reached = {cell: collected for cell, collected in answers.items() if collected.refused is None}
    parts = {
        "first": Scores(first, {cell: [c.answers[t[0]] for t in turns] for cell, c in reached.items()}),
        "anew": Scores(rest, {cell: c.anew for cell, c in reached.items()}),
        "talking": Scores(rest, {cell: c.talking for cell, c in reached.items()}),
    }
    lines = record["lines"]
    for line in lines:
        if line["refused"] is None:
            line["conversation"] = {name: scores_of(line, lines, part) for name, part in parts.items()}
    record["conversation"] = {"pictures": len(turns), "later_questions": len(rest.items)}
