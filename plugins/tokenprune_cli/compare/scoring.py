# SPDX-License-Identifier: Apache-2.0
"""Scores of settings on a set of questions, with intervals.

Every metric is a ratio of two sums over questions, so that one bootstrap serves them all. Exact match and VQA
accuracy are means: each question adds (score, 1). F1 of yes-or-no answers, as POPE counts it, is
2 TP / (2 TP + FP + FN): a correct yes adds (2, 2), a wrong answer (0, 1), a correct no (0, 0).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tokenprune_evaluation.metrics import YES, exact_match, vqa_accuracy, yes_or_no
from tokenprune_evaluation.question_set import Item, QuestionSet

from tokenprune_cli.compare.bootstrap import Array, Interval, interval


class Scores:
    """Scores of all settings on the same questions.

    Parameters
    ----------
    answers
        By setting, in the order of the questions. Settings are named by strings or any other keys.
    """

    def __init__(self, questions: QuestionSet, answers: Mapping[Any, Sequence[str]]) -> None:
        self.questions, self.answers = questions, answers
        self._sums = {(c, metric): self._sums_of(c, metric) for c in answers for metric in questions.metrics}

    def interval(self, cell: Any, metric: str, above: Any = None) -> Interval:
        """Return the score of a setting, or how much higher it is than that of the setting `above`."""
        return interval(self._sums[cell, metric], None if above is None else self._sums[above, metric])

    def families(self, cell: Any) -> dict[str, Interval]:
        """Return the score in each family of questions; empty if the questions have no families."""
        names = self.questions.families
        return {name: interval(self._sums_of(cell, family=name)) for name in names}

    def _sums_of(self, cell: Any, metric: str | None = None, family: str | None = None) -> Array:
        """Add up the questions of one metric or one family by picture."""
        pairs = zip(self.questions.items, self.answers[cell], strict=True)
        return picture_sums(
            (item, answer)
            for item, answer in pairs
            if metric in (None, item.metric) and family in (None, item.question.family)
        )


def picture_sums(answered: Iterable[tuple[Item, str]]) -> Array:
    """Add up the questions of each picture, (pictures, 2); pictures in the order of their first question."""
    sums: dict[int, Array] = {}
    for item, answer in answered:
        sums[item.image] = sums.get(item.image, np.zeros(2)) + parts(item, answer)
    return np.array(list(sums.values()))


def parts(item: Item, answer: str) -> tuple[float, float]:
    """Return what a question adds to the numerator and the denominator of its metric."""
    if item.metric == "exact_match":
        return exact_match(answer, item.answers), 1.0
    if item.metric == "vqa_accuracy":
        return vqa_accuracy(answer, item.answers), 1.0
    if yes_or_no(answer) != item.answers[0]:
        return 0.0, 1.0
    return (2.0, 2.0) if item.answers[0] == YES else (0.0, 0.0)


def is_right(item: Item, answer: str) -> bool:
    """Return whether an answer gets the full score (of VQA accuracy: whether enough people agree)."""
    if item.metric == "yes_no_f1":
        return yes_or_no(answer) == item.answers[0]
    return parts(item, answer)[0] == 1.0
