# SPDX-License-Identifier: Apache-2.0
"""What the conversation track found, put beside the other figures of each line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tokenprune_cli.compare.collected import Collected
from tokenprune_cli.compare.conversation import conversations, later
from tokenprune_cli.compare.question_set import QuestionSet
from tokenprune_cli.compare.scores import Scores, scores_of


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
