# SPDX-License-Identifier: Apache-2.0
"""What a comparison found on one model, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from tokenprune_bench.compare import bootstrap
from tokenprune_bench.compare.awareness import saw_the_question
from tokenprune_bench.compare.bootstrap import Interval
from tokenprune_bench.compare.collected import Collected
from tokenprune_bench.compare.plan import RANDOM, Line, Plan, key
from tokenprune_bench.compare.question_set import QuestionSet
from tokenprune_bench.compare.scoring import Array, cluster_sums
from tokenprune_bench.evaluation import UNPRUNED

draws = cache(bootstrap.draws)


class Scores:
    """Every setting's score sums by picture, for each metric."""

    def __init__(self, questions: QuestionSet, found: Mapping[str, Collected]) -> None:
        self.questions, self.found = questions, found
        self._sums: dict[tuple[str, str], Array] = {}

    def sums(self, cell: str, metric: str) -> Array:
        """Sums over the questions of each picture, (pictures, 2)."""
        if (cell, metric) not in self._sums:
            items = self.questions.items
            own = [i for i, item in enumerate(items) if item.metric == metric]
            answers = self.found[cell].answers
            self._sums[cell, metric] = cluster_sums([items[i] for i in own], [answers[i] for i in own])
        return self._sums[cell, metric]

    def interval(self, cell: str, metric: str) -> Interval:
        """How well a setting did."""
        sums = self.sums(cell, metric)
        return bootstrap.interval(sums, draws(len(sums)))

    def difference(self, cell: str, other: str, metric: str) -> Interval:
        """How much better it did than another."""
        ours, theirs = self.sums(cell, metric), self.sums(other, metric)
        return bootstrap.difference(ours, theirs, draws(len(ours)))

    def families(self, cell: str) -> dict[str, float]:
        """Score of each family of questions; empty where questions have none."""
        items, answers = self.questions.items, self.found[cell].answers
        names = dict.fromkeys(item.question.family for item in items if item.question.family)
        values = {}
        for name in names:
            own = [i for i, item in enumerate(items) if item.question.family == name]
            sums = cluster_sums([items[i] for i in own], [answers[i] for i in own])
            values[name] = round(float(sums[:, 0].sum() / sums[:, 1].sum()), 5)
        return values


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
    scores = Scores(questions, found)
    lines = [_line(line, plan, scores, config) for line in plan.lines]
    for line in lines:
        if line["refused"] is None:
            reference = next(
                (
                    other["cell"]
                    for other in lines
                    if (other["protocol"], other["keep"], other["method"])
                    == (line["protocol"], line["keep"], RANDOM)
                ),
                None,
            )
            line["scores"] = {
                metric: _scores(scores, line["cell"], reference, metric) for metric in questions.metrics
            }
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


def _line(line: Line, plan: Plan, scores: Scores, config: Any) -> dict[str, Any]:
    setting, cell = line.setting, key(line.setting)
    one = scores.found.get(cell, Collected(refused=plan.refused.get(setting)))
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


def _scores(scores: Scores, cell: str, reference: str | None, metric: str) -> dict[str, Any]:
    own, unpruned = scores.interval(cell, metric), scores.interval(key(UNPRUNED), metric)
    found = {
        **_plain(own),
        "of_unpruned": round(own.value / unpruned.value, 5) if unpruned.value else None,
        "minus_unpruned": None,
        "minus_random": None,
    }
    if cell != key(UNPRUNED):
        found["minus_unpruned"] = _plain(scores.difference(cell, key(UNPRUNED), metric))
    if reference is not None and reference != cell:
        found["minus_random"] = _plain(scores.difference(cell, reference, metric))
    return found


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
        best = max(group, key=lambda line: float(line["scores"][metric]["value"]))
        level = [
            line["method"]
            for line in group
            if line is not best and not scores.difference(best["cell"], line["cell"], metric).is_clear
        ]
        found.append({"protocol": protocol, "keep": keep, "best": best["method"], "not_clearly_below": level})
    return found


def _plain(interval: Interval) -> dict[str, Any]:
    ends = {"low": interval.low, "high": interval.high}
    rounded = {name: None if end is None else round(end, 5) for name, end in ends.items()}
    return {"value": round(interval.value, 5), **rounded}
