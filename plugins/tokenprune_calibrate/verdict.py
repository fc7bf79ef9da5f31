# SPDX-License-Identifier: Apache-2.0
"""From losses to what is certified: one test for each setting, in order, until one fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenprune_evaluation.errors import BadInputError
from tokenprune_evaluation.settings import Setting, key

from .collecting import Line
from .goal import Goal
from .ladders import Ladder
from .losses import is_zero_or_one
from .record import LadderRecord, RungRecord
from .sample import Sample
from .statistics import betting, binomial, sequence

BINOMIAL, BETTING = "exact binomial", "betting"
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """The tests, chosen before data are seen.

    Parameters
    ----------
    test
        The exact binomial test for losses of 0 and 1 in a sample of fixed size, else the betting bound.
    delta
        The level of each method: 1 - confidence divided by their number.
    fewest
        Units that certify the limit at least, if none has a loss.
    """

    goal: Goal
    test: str
    delta: float
    fewest: int
    tested: tuple[Ladder, ...]
    n_units: int

    @classmethod
    def prepare(
        cls, goal: Goal, sample: Sample, metrics: tuple[str, ...], ladders: tuple[Ladder, ...]
    ) -> Verdict:
        """Choose the test, and refuse a sample that is too small for any certificate."""
        zero_or_one = is_zero_or_one(goal.loss, metrics) and sample.has_single_questions
        test = BINOMIAL if zero_or_one and not goal.stop_early else BETTING
        delta = sequence.share(goal.delta, len(ladders))
        fewest = binomial.fewest_samples(goal.limit, delta)
        if test == BETTING:
            fewest = betting.fewest_samples(goal.limit, delta)
        if len(sample) < fewest:
            among = "" if len(ladders) == 1 else f", which {len(ladders)} methods share"
            raise BadInputError(
                f"a limit of {goal.limit:.2%} at {goal.confidence:.0%} confidence{among} takes at least "
                f"{fewest} pictures without a single loss, and there are {len(sample)}; add requests, name "
                "fewer methods, raise the limit or lower the confidence"
            )
        return cls(goal, test, delta, fewest, ladders, len(sample))

    def announcement(self, journal: Path) -> str:
        """Say how many pictures the goal takes at least, and where answers are written."""
        goal = f"a limit of {self.goal.limit:.2%} at {self.goal.confidence:.0%} confidence"
        return (
            f"{self.n_units} pictures; {goal} takes at least {self.fewest} without a single loss, and more "
            f"with losses. Answers are written to '{journal}'"
        )

    def is_decided(self, lines: Sequence[Line]) -> bool:
        """Return whether no further unit can change what is certified; False unless `stop_early`."""
        n_left = self.n_units - sum(len(line["units"]) for line in lines)
        return self.goal.stop_early and all(
            sequence.is_decided(
                [unit_losses(lines, setting) for setting in ladder.rungs], self.goal.limit, self.delta, n_left
            )
            for ladder in self.tested
        )

    def ladders(
        self, lines: Sequence[Line], costs: Mapping[Setting, float]
    ) -> tuple[list[LadderRecord], Setting | None]:
        """Test each method's settings in order; return the results, and the cheapest certified setting."""
        records, certified = [], []
        for ladder in self.tested:
            losses = [unit_losses(lines, setting) for setting in ladder.rungs]
            module = binomial if self.test == BINOMIAL else betting
            result = sequence.certify(losses, self.goal.limit, self.delta, module.p_value, module.upper_bound)
            rungs = []
            for number, (setting, values) in enumerate(zip(ladder.rungs, losses, strict=True)):
                is_certified = number < result.n_certified
                if is_certified:
                    certified.append(setting)
                rungs.append(
                    RungRecord(
                        keep=amount(setting),
                        n=len(values),
                        mean_loss=float(values.mean()),
                        upper_bound=result.upper_bounds[number],
                        p_value=result.p_values[number],
                        is_certified=is_certified,
                        cost=costs[setting],
                    )
                )
            records.append(LadderRecord(ladder.method, self.delta, rungs))
        return records, min(certified, key=lambda setting: costs[setting], default=None)


def amount(setting: Setting) -> int | str:
    """Return the budget of a setting as a record has it: a count, or a rule as a string."""
    return str(setting.rule) if setting.rule is not None else setting.keep or 0


def unit_losses(lines: Sequence[Line], setting: Setting) -> Array:
    """Return the mean loss of each unit under a setting, in the order in which they were answered."""
    means: list[float] = []
    for line in lines:
        losses = iter(line["losses"][key(setting)])
        means += [float(np.mean([next(losses) for _ in unit])) for unit in line["units"]]
    return np.array(means)
