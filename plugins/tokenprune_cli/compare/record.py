# SPDX-License-Identifier: Apache-2.0
"""What a comparison found on one model, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenprune_cli.compare.awareness import saw_the_question
from tokenprune_cli.compare.collected import Collected
from tokenprune_cli.compare.plan import Line, Plan, key
from tokenprune_cli.compare.question_set import QuestionSet
from tokenprune_cli.compare.scores import Scores, scores_of
from tokenprune_cli.evaluation import UNPRUNED


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
        "leaders": leaders(lines, scores, questions.metrics[0]),
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
            "by_layer": [[i, round(n, 2)] for i, n in enumerate(rows) if i == 0 or rows[i - 1] != n],
        },
        "kv_bytes": round(one.kv_bytes),
        **timing,
        "flops": flops,
        "families": scores.families(cell),
    }
    return entry


def leaders(lines: Sequence[Mapping[str, Any]], scores: Scores, metric: str) -> list[dict[str, Any]]:
    """For each protocol and budget the highest score, and who is not clearly below it."""
    found = []
    for protocol, keep in dict.fromkeys((ln["protocol"], ln["keep"]) for ln in lines if ln["keep"]):
        group = [
            line
            for line in lines
            if (line["protocol"], line["keep"]) == (protocol, keep) and "scores" in line
        ]
        if not group:
            continue
        top = max(line["scores"][metric]["value"] for line in group)
        best = [line for line in group if line["scores"][metric]["value"] == top]
        level: list[str] = []
        below: list[str] = []
        for line in group:
            if line not in best:
                gap = scores.difference(best[0]["cell"], line["cell"], metric)
                (below if gap.is_clear else level).append(line["method"])
        found.append(
            {
                "protocol": protocol,
                "keep": keep,
                "best": [line["method"] for line in best],
                "not_clearly_below": level,
                "clearly_below": below,
            }
        )
    return found
