# SPDX-License-Identifier: Apache-2.0
"""Scores of settings on a set of questions, with their intervals, alone and against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from tokenprune_cli.compare import bootstrap
from tokenprune_cli.compare.bootstrap import Interval
from tokenprune_cli.compare.plan import RANDOM, key
from tokenprune_cli.compare.question_set import QuestionSet
from tokenprune_cli.compare.scoring import Array, cluster_sums
from tokenprune_cli.evaluation import UNPRUNED

draws = cache(bootstrap.draws)


class Scores:
    """Every setting's score sums by picture, for each metric."""

    def __init__(self, questions: QuestionSet, answers: Mapping[str, Sequence[str]]) -> None:
        self.questions, self.answers = questions, answers
        self._sums: dict[tuple[str, str], Array] = {}

    def sums(self, cell: str, metric: str) -> Array:
        """Sums over the questions of each picture, (pictures, 2)."""
        if (cell, metric) not in self._sums:
            items = self.questions.items
            own = [i for i, item in enumerate(items) if item.metric == metric]
            answers = self.answers[cell]
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
        items, answers = self.questions.items, self.answers[cell]
        names = dict.fromkeys(item.question.family for item in items if item.question.family)
        values = {}
        for name in names:
            own = [i for i, item in enumerate(items) if item.question.family == name]
            sums = cluster_sums([items[i] for i in own], [answers[i] for i in own])
            values[name] = round(float(sums[:, 0].sum() / sums[:, 1].sum()), 5)
        return values


def scores_of(
    line: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], scores: Scores
) -> dict[str, dict[str, Any]]:
    """Each metric's value with its interval, share of the unpruned model's, and distances.

    Parameters
    ----------
    line
        Of a record, not refused.
    lines
        All of them; `random` of the same protocol and budget is what the line is compared with.
    """
    place = (line["protocol"], line["keep"], RANDOM)
    alike = (o for o in lines if (o["protocol"], o["keep"], o["method"]) == place and o["refused"] is None)
    other = next(alike, None)
    reference = None if other is None else other["cell"]
    return {metric: _scores(scores, line["cell"], reference, metric) for metric in scores.questions.metrics}


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


def _plain(interval: Interval) -> dict[str, Any]:
    ends = {"low": interval.low, "high": interval.high}
    rounded = {name: None if end is None else round(end, 5) for name, end in ends.items()}
    return {"value": round(interval.value, 5), **rounded}
