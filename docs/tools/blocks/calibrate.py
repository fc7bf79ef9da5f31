# SPDX-License-Identifier: Apache-2.0
"""Blocks of docs/calibrate.md: what `python -m benchmarks.calibration` counted."""

from __future__ import annotations

import numpy as np
from tokenprune_calibrate.statistics import binomial
from tokenprune_evaluation.records import from_dict
from tokenprune_evaluation.tables import Table

from benchmarks.calibration.__main__ import Record

from .sources import Blocks, measured, read_record


def table() -> str:
    """A row for each method and limit: how often halves certified a setting above the limit."""
    heads = ["method", "limit", "settings up to it", "certified", "wrong", "wrong, exact bound"]
    rows = [
        [
            *(each.method, f"{each.limit:.0%}".replace("%", " %"), str(each.below), f"{each.kept:.2f}"),
            *(f"{100 * share:.2f} %" for share in (each.violations, each.expected)),
        ]
        for each in from_dict(Record, read_record("calibration")).results
    ]
    return f"{Table(heads, rows, align='lrrrrr').markdown()}\n\n{measured(read_record('calibration'))}"


def risk(method: str, keep: str) -> str:
    """The disagreement of a setting over all questions, as in "9.2 %"."""
    return f"{100 * _risk(method, keep):.1f} %"


def bound(method: str, keep: str) -> str:
    """The exact upper bound of a setting's disagreement at 95 % confidence, as in "10.4 %"."""
    record = from_dict(Record, read_record("calibration"))
    n_losses = round(_risk(method, keep) * record.questions)
    losses = np.r_[np.ones(n_losses), np.zeros(record.questions - n_losses)]
    return f"{100 * binomial.upper_bound(losses, record.delta):.1f} %"


def _risk(method: str, keep: str) -> float:
    return from_dict(Record, read_record("calibration")).risks[f"{method} {keep}"]


BLOCKS: Blocks = {"calibration": table, "calibration-risk": risk, "calibration-bound": bound}
