# SPDX-License-Identifier: Apache-2.0
"""Plot the risk against the cost of every setting, with its upper bound."""

from __future__ import annotations

import io

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from .record import CalibrationRecord

MARKERS = "osD^vPX*"
COST_LABELS = {
    "flops": "operations of the prefill, share of the unpruned model's",
    "seconds": "time of the prefill, share of the unpruned model's",
}


def plot(record: CalibrationRecord) -> str:
    """Return the plot as an SVG element: filled markers are certified, bars end at the upper bounds."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for number, ladder in enumerate(record.ladders):
        color, marker = f"C{number}", MARKERS[number % len(MARKERS)]
        costs = [rung.cost for rung in ladder.rungs]
        risks = [rung.mean_loss for rung in ladder.rungs]
        above = [max(0.0, rung.upper_bound - rung.mean_loss) for rung in ladder.rungs]
        axes.errorbar(costs, risks, yerr=[[0.0] * len(above), above], color=color, linewidth=1, capsize=3)
        for rung in ladder.rungs:
            fill = color if rung.is_certified else "white"
            axes.plot(rung.cost, rung.mean_loss, marker, color=color, markerfacecolor=fill)
        axes.plot([], [], marker, color=color, label=ladder.method)
    axes.axhline(record.goal["limit"], color="black", linestyle="--", linewidth=1, label="limit")
    axes.set_xlabel(COST_LABELS[record.cost_unit])
    axes.set_ylabel(f"{record.goal['loss']} (mean, upper bound)")
    axes.set_ylim(0, _top(record))
    axes.set_xlim(left=0)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})  # type: ignore[no-untyped-call]
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _top(record: CalibrationRecord) -> float:
    bounds = [rung.upper_bound for ladder in record.ladders for rung in ladder.rungs]
    return min(1.0, 1.1 * max(float(record.goal["limit"]), *bounds))
