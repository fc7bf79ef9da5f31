# SPDX-License-Identifier: Apache-2.0
"""What a pruned model loses on a question, in [0, 1]; the reference is the same model unpruned.

`disagreement`: 1 if the answers differ, normalised as the VQA script does, else 0. `drop`: by how much the
score of a question falls, where the file has right answers. `divergence`: the total variation between the
distributions of the next token, averaged along the unpruned answer; it sees risk before answers flip.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenprune_evaluation.metrics import exact_match, vqa_accuracy, vqa_normal, yes_or_no
from tokenprune_evaluation.question_set import Item

DISAGREEMENT, DROP, DIVERGENCE = "disagreement", "drop", "divergence"
LOSSES = (DISAGREEMENT, DROP, DIVERGENCE)


@dataclass(frozen=True)
class Answer:
    """A model's answer to a question; `divergence` is that from the unpruned model along its answer."""

    text: str
    divergence: float | None = None


def loss_of(name: str, item: Item, unpruned: Answer, pruned: Answer) -> float:
    """Return the loss of a pruned model's answer, by the loss's name."""
    if name == DISAGREEMENT:
        return float(vqa_normal(unpruned.text) != vqa_normal(pruned.text))
    if name == DROP:
        return max(0.0, score(item, unpruned.text) - score(item, pruned.text))
    if pruned.divergence is None:
        raise ValueError("the divergence was not measured")
    return pruned.divergence


def score(item: Item, answer: str) -> float:
    """Return the score of one answer by its question's metric; of yes or no, whether it is right."""
    if item.metric == "vqa_accuracy":
        return vqa_accuracy(answer, item.answers)
    if item.metric == "yes_no_f1":
        return float(yes_or_no(answer) == item.answers[0])
    return exact_match(answer, item.answers)


def is_zero_or_one(name: str, metrics: tuple[str, ...]) -> bool:
    """Return whether a loss of single questions takes the values 0 and 1 only."""
    return name == DISAGREEMENT or (name == DROP and "vqa_accuracy" not in metrics)
