# SPDX-License-Identifier: Apache-2.0
"""Refuse a rule for the number of tokens where a schedule sets numbers."""

from __future__ import annotations

from .covering import Cover
from .errors import IncompatibleError
from .schedule import ExplicitSchedule, Schedule


def check_rule_of_schedule(method: str, schedule: Schedule, unit: str, rule: Cover) -> None:
    """Raise unless a schedule leaves the number of tokens open: one cut, to the rows of the budget.

    Parameters
    ----------
    method
        Name of the method.
    unit
        What `keep` counts; see `Schedule.cuts`.

    Raises
    ------
    IncompatibleError
        With the reason, and what to do.
    """
    if isinstance(schedule, ExplicitSchedule):
        reason, remedy = "its schedule says how many rows are left", "leave the schedule out and give layer="
    elif len(schedule.layers) != 1:
        n_cuts = len(schedule.layers)
        reason = f"its schedule derives the rows left after each of {n_cuts} cuts from a number"
        remedy = "cut once, with a single layer="
    elif unit != "rows":
        reason, remedy = f"budget={unit!r} counts something else than rows left", "leave budget= out"
    else:
        return
    raise IncompatibleError(
        f"with keep={rule} the number of tokens depends on the picture, but method {method!r} needs a "
        f"number: {reason}. Give keep= as a number, or {remedy}"
    )
