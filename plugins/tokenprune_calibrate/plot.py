# SPDX-License-Identifier: Apache-2.0
"""Plot the risk against the cost of every setting, with its upper bound."""

from __future__ import annotations

import io

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from tokenprune_evaluation.plot_colors import COLORS, MARKERS

from .record import CalibrationRecord

MARGIN = 0.05  # share of the height that is left free below 0 and above the highest bar
COST_LABELS = {
    "flops": "operations of the prefill, share of the unpruned model's",
    "seconds": "time of the prefill, share of the unpruned model's",
}


def plot(record: CalibrationRecord) -> str:
    """Return the plot as an SVG element: filled markers are certified, bars end at the upper bounds."""
    text = io.StringIO()
    FigureCanvasSVG(figure(record)).print_svg(text, metadata={"Date": None})  # type: ignore[no-untyped-call]
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def figure(record: CalibrationRecord) -> Figure:
    """Draw a line for each method, in the order of the record, and the limit."""
    drawn = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = drawn.add_subplot()
    highest = float(record.goal["limit"])
    for number, ladder in enumerate(record.ladders):
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        costs = [rung.cost for rung in ladder.rungs]
        risks = [rung.mean_loss for rung in ladder.rungs]
        above = [max(0.0, rung.upper_bound - rung.mean_loss) for rung in ladder.rungs]
        axes.errorbar(costs, risks, yerr=[[0.0] * len(above), above], color=color, linewidth=1, capsize=3)
        for rung in ladder.rungs:
            fill = color if rung.is_certified else "white"
            axes.plot(rung.cost, rung.mean_loss, marker, color=color, markerfacecolor=fill)
            highest = max(highest, rung.mean_loss, rung.upper_bound)
        axes.plot([], [], marker, color=color, label=ladder.title)
    axes.axhline(record.goal["limit"], color="black", linestyle="--", linewidth=1, label="limit")
    axes.set_xlabel(COST_LABELS[record.cost_unit])
    axes.set_ylabel(f"{record.goal['loss']} (mean, upper bound)")
    axes.set_ylim(-MARGIN * highest, (1 + MARGIN) * highest)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    drawn.legend(loc="outside right upper", frameon=False)
    return drawn
