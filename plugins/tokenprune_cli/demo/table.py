# SPDX-License-Identifier: Apache-2.0
"""The demo's table, from its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from tokenprune_cli.tables import Table

ENDS = ("value", "low", "high")
SHORT = {
    "attribute": "attr",
    "existence": "exist",
    "counting": "count",
    "spatial": "where",
    "reading": "read",
}


def terminal_table(record: Mapping[str, Any], by_layer: bool = False) -> Table:
    """Lay out the results for 80 columns; the most accurate method of each budget stands in bold.

    `by_layer` shows the visual rows entering each layer instead of the families of questions.
    """
    results, families = record["results"], [] if by_layer else list(record["results"][0]["families"])
    best = {(method, verdict["keep"]) for verdict in record["verdicts"] for method in verdict["best"]}
    rows = [
        [
            result["method"] or "unpruned",
            f"{result['visual_tokens']:.0f}",
            *[runs(result["visual_rows"])] * by_layer,
            right(result["accuracy"]),
            *(f"{100 * result['families'][family]['value']:.1f}" for family in families),
            f"{result['kv_cache_bytes'] / 1000:.0f}",
            f"{result['prefill_flops'] / 1e6:.0f}",
        ]
        for result in results
    ]
    layers = ["rows per layer"] * by_layer
    heads = ["method", "kept", *layers, "right %", *(SHORT.get(f, f) for f in families), "KV\nkB", "M\nFLOP"]
    return Table(
        heads,
        rows,
        styles={i: "bold" for i, r in enumerate(results) if (r["method"], r["keep"]) in best},
        sections=[i for i in range(1, len(results)) if results[i]["keep"] != results[i - 1]["keep"]],
    )


def right(score: Mapping[str, Any]) -> str:
    """Write accuracy in per cent with its interval, as in "71.5 69-74", if that is more than a point."""
    value, low, high = (None if share is None else 100 * share for share in map(score.get, ENDS))
    return f"{value:.1f}" if low is None or low == high else f"{value:.1f} {low:.0f}-{high:.0f}"


def runs(rows: Sequence[float]) -> str:
    """Rows of successive layers, as in "144×2 18×6": 144 in two layers, then 18 in six."""
    return " ".join(f"{n}×{len(list(layers))}" for n, layers in groupby(f"{r:.0f}" for r in rows))
