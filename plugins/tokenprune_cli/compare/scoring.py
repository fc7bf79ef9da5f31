# SPDX-License-Identifier: Apache-2.0
"""Every metric as a ratio of two sums over questions, so that one bootstrap serves them all.

Exact match and VQA accuracy are means: (score, 1) a question. F1 of yes-or-no answers, as POPE counts it, is
2 TP / (2 TP + FP + FN): (2, 2) for a yes that is right, (0, 1) for an answer that is wrong, (0, 0) for a
right no.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokenprune_cli.compare.question_set import Item
from tokenprune_cli.evaluation.metrics import YES, exact_match, vqa_accuracy, yes_or_no

Array = NDArray[np.float64]


def parts(item: Item, answer: str) -> tuple[float, float]:
    """Numerator and denominator of one question."""
    if item.metric == "exact_match":
        return exact_match(answer, item.answers), 1.0
    if item.metric == "vqa_accuracy":
        return vqa_accuracy(answer, item.answers), 1.0
    if yes_or_no(answer) != item.answers[0]:
        return 0.0, 1.0
    return (2.0, 2.0) if item.answers[0] == YES else (0.0, 0.0)


def is_right(item: Item, answer: str) -> bool:
    """Whether an answer counts as right; one that fewer people than needed agree with does not."""
    if item.metric == "yes_no_f1":
        return yes_or_no(answer) == item.answers[0]
    return parts(item, answer)[0] == 1.0


def ratio(sums: Array) -> Array:
    """Quotient of the last axis' two sums (..., 2); 0 where the denominator is."""
    numerator, denominator = sums[..., 0], sums[..., 1]
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)


def cluster_sums(items: Sequence[Item], answers: Sequence[str]) -> Array:
    """Sums over the questions of each picture, (pictures, 2), pictures in the order they first occur."""
    number = {image: i for i, image in enumerate(dict.fromkeys(item.image for item in items))}
    sums = np.zeros((len(number), 2))
    for item, answer in zip(items, answers, strict=True):
        sums[number[item.image]] += parts(item, answer)
    return sums
