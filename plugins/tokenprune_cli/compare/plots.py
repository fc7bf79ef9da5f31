# SPDX-License-Identifier: Apache-2.0
"""The two plots of a comparison: the metric over rows, and over all operations before the first token."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from tokenprune_cli.compare.looks import Look

AXES = {
    "rows": "mean visual rows entering a layer",
    "flops": "MFLOP before the first token: tower, token selection, language model",
}
MARGIN = 2.0  # points between the plot's border and the bars
# text stays text: it is not converted to paths
TEXT: dict[Any, Any] = {"font.size": 9, "svg.fonttype": "none", "text.parse_math": False}


def plots(record: Mapping[str, Any], protocol: str, metric: str, looks: Mapping[str, Look]) -> dict[str, str]:
    """Draw both plots of a protocol as SVG documents, by axis; the same record gives the same bytes.

    `looks` are those of all methods of the page.
    """
    lines = [line for line in record["lines"] if line["protocol"] == protocol and line["refused"] is None]
    unpruned = next(line for line in lines if line["method"] is None)
    pruned = [line for line in lines if line["method"] is not None]
    if not pruned:
        return {}
    drawn = {}
    for axis, label in AXES.items():
        with matplotlib.rc_context({**TEXT, "svg.hashsalt": f"{protocol} {metric} {axis}"}):
            figure = _figure(pruned, axis, metric, looks, 100 * unpruned["scores"][metric]["value"])
            figure.axes[0].set(xlabel=label, ylabel=f"{metric}, %")
            svg = io.StringIO()
            no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            figure.savefig(svg, format="svg", metadata=no_metadata)
        drawn[axis] = svg.getvalue()
    return drawn


def _figure(
    lines: Sequence[Mapping[str, Any]], axis: str, metric: str, looks: Mapping[str, Look], unpruned: float
) -> Figure:
    """Draw a line for each method."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(unpruned, color="black", linestyle=":", linewidth=1)
    last, lowest, highest = {}, 90.0, 100.0
    for method in dict.fromkeys(line["method"] for line in lines):
        points = sorted(_point(line, axis, metric) for line in lines if line["method"] == method)
        x, y, below, above = zip(*points, strict=True)
        look = looks[method]
        axes.errorbar(
            x, y, [below, above], label=method, color=look.color, linewidth=1.2, linestyle=look.linestyle,
            elinewidth=0.6, markersize=4.5, marker=look.marker,
            markerfacecolor="white" if look.is_hollow else look.color,
        )  # fmt: skip
        last[method] = y[-1]
        lowest = min(lowest, *(value - length for value, length in zip(y, below, strict=True)))
        highest = max(highest, *(value + length for value, length in zip(y, above, strict=True)))
    axes.set(xscale="log", ylim=(10 * math.floor(lowest / 10) - MARGIN, highest + MARGIN))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#e4e4e4")
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    ranked = sorted(zip(handles, labels, strict=True), key=lambda pair: -last[pair[1]])
    figure.legend(*zip(*ranked, strict=True), loc="outside right upper", frameon=False)
    return figure


def _point(line: Mapping[str, Any], axis: str, metric: str) -> tuple[float, float, float, float]:
    """Return a point, and how far its interval extends below and above it (0 if that is unknown)."""
    score = line["scores"][metric]
    x = line["visual_rows"]["mean"] if axis == "rows" else line["flops"]["total"] / 1e6
    low, high = (score["value"] if score[end] is None else score[end] for end in ("low", "high"))
    return x, 100 * score["value"], 100 * (score["value"] - low), 100 * (high - score["value"])
