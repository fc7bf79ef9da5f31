# SPDX-License-Identifier: Apache-2.0
"""A comparison's two plots: the metric over rows, and over all operations before the first token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenprune_cli.compare.plan import ALWAYS
from tokenprune_cli.compare.plot import Point, Series, svg
from tokenprune_cli.compare.table import groups

AXES = {
    "rows": "mean visual rows entering a layer",
    "flops": "MFLOP before the first token: tower, choosing, language model",
}


def plots(record: Mapping[str, Any], protocol: str, metric: str) -> dict[str, str]:
    """Both plots of one protocol as SVG, by axis; the dotted line is the unpruned model."""
    lines = [line for _, group in groups(record, protocol) for line in group if "scores" in line]
    level = next(line["scores"][metric]["value"] for line in lines if line["method"] is None)
    pruned = [line for line in lines if line["method"] is not None]
    drawn = {}
    for axis, label in AXES.items():
        series = [
            _series(pruned, method, axis, metric) for method in dict.fromkeys(p["method"] for p in pruned)
        ]
        if series:
            drawn[axis] = svg(series, label, f"{metric}, %", 100 * level)
    return drawn


def _series(lines: list[Mapping[str, Any]], method: str, axis: str, metric: str) -> Series:
    points = [_point(line, axis, metric) for line in lines if line["method"] == method]
    saw = any(line["saw_the_question"] for line in lines if line["method"] == method)
    return Series(method, tuple(sorted(points, key=lambda p: p.x)), method in ALWAYS, saw)


def _point(line: Mapping[str, Any], axis: str, metric: str) -> Point:
    score = line["scores"][metric]
    x = line["visual_rows"]["mean"] if axis == "rows" else line["flops"]["total"] / 1e6
    low, high = (None if score[end] is None else 100 * score[end] for end in ("low", "high"))
    note = f"{line['method']}, keep {line['keep']}: {100 * score['value']:.1f} % at {x:.1f}"
    return Point(x, 100 * score["value"], low, high, note)
