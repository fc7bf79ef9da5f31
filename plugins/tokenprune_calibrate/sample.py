# SPDX-License-Identifier: Apache-2.0
"""The sample: units in a random order, each with the numbers of its questions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tokenprune_evaluation.question_set import QuestionSet

from .goal import QUESTION, Goal


@dataclass(frozen=True)
class Sample:
    """Units of independent requests, in the order in which they are tested.

    Traffic is ordered in time, so the order is drawn with the goal's seed. `units` are the numbers of the
    questions of each unit.
    """

    units: tuple[tuple[int, ...], ...]

    @classmethod
    def draw(cls, questions: QuestionSet, goal: Goal) -> Sample:
        """Make the units of a set of questions."""
        of_picture: dict[int, list[int]] = {}
        for number, item in enumerate(questions.items):
            of_picture.setdefault(item.image, []).append(number)
        rng = np.random.default_rng(goal.seed)
        units = [tuple(numbers) for numbers in of_picture.values()]
        if goal.unit == QUESTION:
            units = [(numbers[rng.integers(len(numbers))],) for numbers in units]
        return cls(tuple(units[i] for i in rng.permutation(len(units))))

    def __len__(self) -> int:
        """Number of units."""
        return len(self.units)

    @property
    def has_single_questions(self) -> bool:
        """Whether every unit is one question."""
        return all(len(unit) == 1 for unit in self.units)

    def batches(self, size: int) -> list[tuple[tuple[int, ...], ...]]:
        """Divide the units, in order, into batches of about `size` questions; units stay whole."""
        batches: list[list[tuple[int, ...]]] = []
        room = 0
        for unit in self.units:
            if not batches or len(unit) > room:
                batches.append([])
                room = size
            batches[-1].append(unit)
            room -= len(unit)
        return [tuple(batch) for batch in batches]
