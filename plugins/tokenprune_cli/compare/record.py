# SPDX-License-Identifier: Apache-2.0
"""What a comparison found on one model, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokenprune_cli.compare.answers import changes
from tokenprune_cli.compare.bootstrap import Interval
from tokenprune_cli.compare.collected import Collected
from tokenprune_cli.compare.conversation import conversations, later
from tokenprune_cli.compare.plan import Line, Plan, key
from tokenprune_cli.compare.protocols import saw_the_question
from tokenprune_cli.compare.question_set import QuestionSet
from tokenprune_cli.compare.scores import Scores, scores_of
from tokenprune_cli.evaluation.settings import UNPRUNED


def model_record(
    plan: Plan, questions: QuestionSet, found: Mapping[str, Collected], config: Any
) -> dict[str, Any]:
    """Lines of the tables with everything that was measured, in the plan's order.

    Parameters
    ----------
    found
        By setting, complete or refused.
    config
        The language model's configuration.
    """
    scores = Scores(questions, {cell: one.answers for cell, one in found.items() if one.refused is None})
    lines = [_line(line, plan, found, scores, config) for line in plan.lines]
    for line in lines:
        if line["refused"] is None:
            line["scores"] = scores_of(line, lines, scores)
    unpruned = found[key(UNPRUNED)]
    return {
        "questions": len(questions.items),
        "pictures": questions.n_images,
        "metrics": list(questions.metrics),
        "mean_visual_tokens": round(sum(unpruned.tokens) / len(unpruned.tokens), 2),
        "layers": config.num_hidden_layers,
        "unavailable": plan.unavailable,
        "lines": lines,
        "leaders": [
            {
                "protocol": leader.protocol,
                "keep": leader.keep,
                "best": leader.best,
                "not_clearly_below": leader.not_clearly_below,
                "clearly_below": [name for name, gap in leader.behind.items() if gap.is_clear],
            }
            for leader in leaders(plan.lines, scores, questions.metrics[0])
        ],
    }


def _line(
    line: Line, plan: Plan, found: Mapping[str, Collected], scores: Scores, config: Any
) -> dict[str, Any]:
    setting, cell = line.setting, key(line.setting)
    one = found.get(cell, Collected(refused=plan.refused.get(setting)))
    entry: dict[str, Any] = {
        "protocol": line.protocol,
        "method": setting.method,
        "keep": setting.keep,
        "options": dict(setting.options),
        "cell": cell,
        "saw_the_question": saw_the_question(setting.method),
        "refused": one.refused,
    }
    if one.refused is not None:
        return entry
    n_layers: int = config.num_hidden_layers
    rows = one.visual_rows(n_layers)
    timing = one.timing or {}
    flops = {**timing.get("flops", {}), "language": round(one.language_flops(config))}
    flops["total"] = sum(value for part, value in flops.items() if part != "total")
    entry |= {
        "visual_rows": {
            "mean": round(sum(rows) / n_layers, 3),
            "by_layer": [[i, round(n, 2)] for i, n in changes(rows)],
        },
        "kv_bytes": round(one.kv_bytes),
        **timing,
        "flops": flops,
        "families": {name: round(score.value, 5) for name, score in scores.families(cell).items()},
    }
    return entry


@dataclass(frozen=True)
class Leader:
    """The methods with the highest score at a budget, and how far the others are behind the first of them."""

    protocol: str
    keep: int
    best: list[str]
    behind: dict[str, Interval]

    @property
    def not_clearly_below(self) -> list[str]:
        """Methods behind the best whose interval holds 0: noise, by these questions."""
        return [method for method, gap in self.behind.items() if not gap.is_clear]


def leaders(lines: Sequence[Line], scores: Scores, metric: str) -> list[Leader]:
    """For each protocol and budget the highest score, and the distances to it on the same questions."""
    groups: dict[tuple[str, int], dict[str, str]] = {}
    for line in lines:
        method, keep, cell = line.setting.method, line.setting.keep, key(line.setting)
        if method is not None and keep is not None and cell in scores.answers:
            groups.setdefault((line.protocol, keep), {})[method] = cell
    found = []
    for (protocol, keep), cells in groups.items():
        values = {method: round(scores.interval(cell, metric).value, 5) for method, cell in cells.items()}
        best = [method for method, value in values.items() if value == max(values.values())]
        behind = {
            method: scores.difference(cells[best[0]], cell, metric)
            for method, cell in cells.items()
            if method not in best
        }
        found.append(Leader(protocol, keep, best, behind))
    return found


def add_conversations(
    record: dict[str, Any], questions: QuestionSet, found: Mapping[str, Collected], seed: int
) -> None:
    """Give each line that was reached its scores of first questions and of later ones, in both ways."""
    held = conversations(questions, seed)
    first = replace(questions, items=tuple(questions.items[one[0]] for one in held))
    rest = later(questions, seed)
    reached = {cell: one for cell, one in found.items() if one.refused is None}
    parts = {
        "first": Scores(first, {c: [one.answers[i[0]] for i in held] for c, one in reached.items()}),
        "anew": Scores(rest, {cell: one.anew for cell, one in reached.items()}),
        "talking": Scores(rest, {cell: one.talking for cell, one in reached.items()}),
    }
    lines = record["lines"]
    for line in lines:
        if line["refused"] is None:
            line["conversation"] = {name: scores_of(line, lines, part) for name, part in parts.items()}
    record["conversation"] = {"pictures": len(held), "later_questions": len(rest.items)}
