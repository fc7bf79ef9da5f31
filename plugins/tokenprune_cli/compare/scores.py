# SPDX-License-Identifier: Apache-2.0
"""Scores of settings on a set of questions, with their intervals, alone and against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

from tokenprune_cli.compare import bootstrap
from tokenprune_cli.compare.bootstrap import Interval, draws
from tokenprune_cli.compare.plan import RANDOM, key
from tokenprune_cli.compare.question_set import QuestionSet
from tokenprune_cli.compare.scoring import Array, cluster_sums
from tokenprune_cli.evaluation.settings import UNPRUNED


class Scores:
    """Every setting's score sums by picture, for each metric."""

    def __init__(self, questions: QuestionSet, answers: Mapping[str, Sequence[str]]) -> None:
        self.questions, self.answers = questions, answers
        self._sums: dict[tuple[str, str], Array] = {}

    def sums(self, cell: str, metric: str) -> Array:
        """Sums over the questions of each picture, (pictures, 2)."""
        if (cell, metric) not in self._sums:
            self._sums[cell, metric] = self._sums_of(cell, [i.metric == metric for i in self.questions.items])
        return self._sums[cell, metric]

    def _sums_of(self, cell: str, chosen: Sequence[bool]) -> Array:
        """Sums over some of the questions."""
        items, answers = compress(self.questions.items, chosen), compress(self.answers[cell], chosen)
        return cluster_sums(list(items), list(answers))

    def interval(self, cell: str, metric: str) -> Interval:
        """How well a setting did."""
        sums = self.sums(cell, metric)
        return bootstrap.interval(sums, draws(len(sums)))

    def difference(self, cell: str, other: str, metric: str) -> Interval:
        """How much better it did than another."""
        ours, theirs = self.sums(cell, metric), self.sums(other, metric)
        return bootstrap.difference(ours, theirs, draws(len(ours)))

    def families(self, cell: str) -> dict[str, Interval]:
        """Score of each family of questions; empty where questions have none."""
        families = {}
        for name in self.questions.families:
            sums = self._sums_of(cell, [i.question.family == name for i in self.questions.items])
            families[name] = bootstrap.interval(sums, draws(len(sums)))
        return families


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
    score, unpruned = scores.interval(cell, metric), scores.interval(key(UNPRUNED), metric)

    def minus(other: str | None) -> dict[str, Any] | None:
        return None if other in (None, cell) else scores.difference(cell, other or "", metric).rounded()

    return {
        **score.rounded(),
        "of_unpruned": round(score.value / unpruned.value, 5) if unpruned.value else None,
        "minus_unpruned": minus(key(UNPRUNED)),
        "minus_random": minus(reference),
    }
