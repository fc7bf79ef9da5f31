# SPDX-License-Identifier: Apache-2.0
"""The result of a calibration as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tokenprune_evaluation.records import Provenance


@dataclass(frozen=True)
class RungRecord:
    """A setting: its units, their mean loss, a valid upper bound of its risk, and what was certified.

    `keep` is a count, or a rule as a string. `p_value` is None where an earlier rung failed, so that this one
    was not tested. `cost` is the share of the unpruned model's prefill. Each `upper_bound` holds with the
    method's own confidence, one at a time.
    """

    keep: int | str
    n: int
    mean_loss: float
    upper_bound: float
    p_value: float | None
    is_certified: bool
    cost: float


@dataclass(frozen=True)
class LadderRecord:
    """A method's settings from careful to cheap, tested at the level `delta`, its share of 1 - confidence."""

    method: str
    delta: float
    rungs: list[RungRecord]

    @property
    def title(self) -> str:
        """The method, and that its budgets are rules if they are: a method may have a ladder of each."""
        return self.method if isinstance(self.rungs[0].keep, int) else f"{self.method}, by rule"


@dataclass(frozen=True)
class CalibrationRecord(Provenance):
    """What was asked, what was found, and which setting is certified (None: none).

    `fewest` is the number of units that the goal takes at least, without a single loss. `noise_floor` is the
    mean loss of the unpruned model against itself.
    """

    model: str
    weights: str
    questions: str
    pictures: int
    goal: dict[str, Any]
    test: str
    units: int
    fewest: int
    noise_floor: float
    cost_unit: str
    ladders: list[LadderRecord] = field(default_factory=list)
    chosen: dict[str, Any] | None = None
    is_redacted: bool = False

    @property
    def best_upper_bound(self) -> float:
        """The lowest upper bound of all settings."""
        return min(rung.upper_bound for ladder in self.ladders for rung in ladder.rungs)

    def chosen_rung(self) -> RungRecord | None:
        """Return the certified setting that was chosen."""
        if self.chosen is None:
            return None
        return next(
            rung
            for ladder in self.ladders
            for rung in ladder.rungs
            if (ladder.method, rung.keep) == (self.chosen["method"], self.chosen["keep"])
        )
