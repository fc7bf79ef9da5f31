# SPDX-License-Identifier: Apache-2.0
"""What lmms-eval wrote about a row, and how it compares with the published figures."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.paper.rows import Cell, Row

REPRODUCED = "reproduced"
DIFFERS = "differs"
NOT_ATTEMPTED = "not attempted"
UNPUBLISHED = "no published figure"
FORMULA = re.compile(r"(?:(?P<factor>\d+) )?(?P<sum>`\w+`(?: \+ `\w+`)*)")


@dataclass(frozen=True)
class Judged:
    """A cell's measured figure, what it says about the published one, and why that is missing."""

    measured: float | None
    verdict: str
    note: str = ""


def read_results(folder: Path, row: Row, limit: int | None = None) -> dict[str, dict[str, Any]]:
    """Return the metrics of each task that lmms-eval finished with this row's model arguments.

    Files of other model arguments or another limit, and files that were not written to their end, count as
    missing. Of several results of a task the newest is returned.

    Parameters
    ----------
    folder
        Where lmms-eval writes the row's results.
    limit
        Number of questions a task, None for all.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*_results.json"), key=lambda path: path.stat().st_mtime):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            config, results = record["config"], record["results"]
        except (ValueError, KeyError, TypeError):
            continue
        if config.get("model_args") == row.argument("--model_args") and config.get("limit") == limit:
            found |= {task: metrics for task, metrics in results.items() if task in row.tasks}
    return found


def measured_figure(result: str, metrics: Mapping[str, Any]) -> float | None:
    """Compute a figure such as "100 `exact_match`" from a task's metrics; None if it is not among them."""
    formula = FORMULA.fullmatch(result)
    if formula is None:
        return None
    total = 0.0
    for name in re.findall(r"`(\w+)`", formula["sum"]):
        values = {key.partition(",")[2]: value for key, value in metrics.items() if key.split(",")[0] == name}
        value = values.get("none", next(iter(values.values()), None))
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        total += value
    return float(formula["factor"] or 1) * total


def judge(
    row: Row, cell: Cell, results: Mapping[str, Mapping[str, Any]], tolerance: float, limit: int | None = None
) -> Judged:
    """Compare a cell's figure with the published one.

    Parameters
    ----------
    tolerance
        Largest difference of a reproduced figure, in points of 100; in proportion for other maxima.
    """
    if row.command is None:
        return Judged(None, NOT_ATTEMPTED, "no strategy of this package runs this row")
    if cell.task not in results:
        return Judged(None, NOT_ATTEMPTED)
    measured = measured_figure(cell.result, results[cell.task])
    if measured is None:
        return Judged(None, NOT_ATTEMPTED, f"lmms-eval's results have no such figure: {cell.result}")
    if limit is not None:
        return Judged(measured, NOT_ATTEMPTED, f"measured on {limit} questions only")
    if not cell.published:
        return Judged(measured, UNPUBLISHED)
    difference = abs(measured - float(cell.published))
    is_close = difference <= tolerance * cell.maximum / 100 + 1e-9
    return Judged(measured, REPRODUCED if is_close else DIFFERS)
