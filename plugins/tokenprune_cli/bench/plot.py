# SPDX-License-Identifier: Apache-2.0
"""A plot of a benchmark's record."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure  # unlike pyplot, it opens no window and has no global state

from tokenprune_cli.bench.record import BenchRecord
from tokenprune_cli.bench.table import label
from tokenprune_cli.console.failures import BadInputError, first_line

EXTENSIONS = {f".{kind}" for kind in FigureCanvasBase.get_supported_filetypes()}


def save_plot(record: BenchRecord, path: Path) -> None:
    """Plot the speed-up of each prefill over the unpruned one as bars, grouped by batch size."""
    batches = sorted({run.batch for run in record.runs})
    shown = [run for run in record.runs if "unpruned" in run.ratios]
    figure = Figure(figsize=(8, 1 + 0.3 * len(shown)), layout="constrained")
    axes = figure.subplots(len(batches), 1, squeeze=False)[:, 0]
    for batch, axis in zip(batches, axes, strict=True):
        group = [run for run in shown if run.batch == batch]
        places = range(len(group))
        axis.barh(places, [1 / run.ratios["unpruned"]["prefill"] for run in group])
        axis.set_yticks(places, [label(run) for run in group])
        axis.invert_yaxis()
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(f"prefill: times faster than unpruned, batch size {batch}", fontsize=9)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise BadInputError(f"the plot '{path}' cannot be written: {first_line(error)}") from None
