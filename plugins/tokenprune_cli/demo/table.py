# SPDX-License-Identifier: Apache-2.0
"""The table of the demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from tokenprune_evaluation.question_file import DEFAULT_METRIC
from tokenprune_evaluation.tables import Table

from tokenprune_cli.bench.oracle import rows_by_layer
from tokenprune_cli.compare.enough import too_few
from tokenprune_cli.compare.protocols import DEFAULTS
from tokenprune_cli.compare.table import Layout, percent, table

SHORT = {
    "attribute": "attr",
    "existence": "exist",
    "counting": "count",
    "spatial": "where",
    "reading": "read",
}


def demo_table(record: Mapping[str, Any], by_layer: bool = False) -> Table:
    """Lay out the results for 80 columns, with the best methods at each budget in bold, if enough was asked.

    With `by_layer` the table has the visual rows entering each layer instead of the families of questions.
    """
    families = [] if by_layer else list(record["families"])

    def cells(line: Mapping[str, Any], metric: str) -> list[str]:
        rows = line["visual_rows"]["by_layer"]
        return [
            f"{rows[-1][1]:.0f}",
            *[runs(rows_by_layer(rows, record["layers"]))] * by_layer,
            right(line["scores"][metric]),
            *(percent(line["families"][family]["value"]) for family in families),
            f"{line['kv_bytes'] / 1000:.0f}",
            f"{line['flops']['language'] / 1e6:.0f}",
        ]

    leaders = record["leaders"] if too_few(record) is None else []
    best = {(at["keep"], method) for at in leaders for method in at["best"]}
    layers = ["rows per layer"] * by_layer
    heads = ("method", "kept", *layers, "right %", *(SHORT.get(f, f) for f in families), "KV\nkB", "M\nFLOP")

    def style(line: Mapping[str, Any]) -> str:
        return "bold" if (line["keep"], line["method"]) in best else ""

    plain = table(record, DEFAULTS, DEFAULT_METRIC, Layout(heads, cells), style=style)
    return replace(plain, wrap=True)


def right(score: Mapping[str, Any]) -> str:
    """Format a score in per cent with its interval, as in "71.5 69-74"; no interval if its ends are equal."""
    low, high = score["low"], score["high"]
    ends = "" if low is None or low == high else f" {100 * low:.0f}-{100 * high:.0f}"
    return percent(score["value"]) + ends


def runs(rows: Sequence[float]) -> str:
    """Format the rows of successive layers, as in "144×2 18×6": 144 in two layers, then 18 in six."""
    return " ".join(f"{n}×{len(list(layers))}" for n, layers in groupby(f"{r:.0f}" for r in rows))
