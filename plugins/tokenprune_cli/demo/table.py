# SPDX-License-Identifier: Apache-2.0
"""The demo's table, from its record: for the terminal, and as Markdown for the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich import box
from rich.table import Table

from tokenprune_cli.embedded import FAMILIES

SHORT = {
    "attribute": "attr",
    "existence": "exist",
    "counting": "count",
    "spatial": "where",
    "reading": "read",
}


def terminal_table(record: Mapping[str, Any], by_layer: bool = False) -> Table:
    """Lay out the results; the most accurate method of each budget stands in bold.

    `by_layer` shows the visual rows entering each layer instead of the families of questions.
    """
    families = [] if by_layer else _families(record)
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
    )
    table.add_column("method", no_wrap=True)
    layers = ["rows per layer"] * by_layer
    for head in ("kept", *layers, "right %", *(SHORT.get(f, f) for f in families), "KV kB", "MFLOP"):
        table.add_column(head, justify="right", no_wrap=True)
    best = {verdict["keep"]: verdict["best"] for verdict in record["verdicts"]}
    for i, result in enumerate(record["results"]):
        following = record["results"][i + 1 : i + 2]
        last_of_budget = bool(following) and following[0]["keep"] != result["keep"]
        is_best = result["keep"] is not None and result["method"] in best[result["keep"]]
        cells = _cells(result, families)
        if by_layer:
            cells.insert(2, runs(result["visual_rows"]))
        table.add_row(*cells, style="bold" if is_best else None, end_section=last_of_budget)
    return table


def runs(rows: Sequence[float]) -> str:
    """Rows of successive layers, as in "144×2 18×6": 144 in two layers, then 18 in six."""
    return " ".join(f"{n}×{len(list(layers))}" for n, layers in groupby(f"{r:.0f}" for r in rows))


def markdown_table(record: Mapping[str, Any]) -> str:
    """Write the same table in Markdown."""
    families = _families(record)
    heads = ["method", "visual tokens", "right, %", *families, "KV cache, kB", "prefill, MFLOP"]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    lines += ["| " + " | ".join(_cells(result, families)) + " |" for result in record["results"]]
    return "\n".join(lines)


def headline(record: Mapping[str, Any]) -> str:
    """Say what was asked."""
    count = record["held_out_scenes"]["count"]
    return f"{record['questions']} questions about {count} pictures no training saw; right answers in percent"


def _families(record: Mapping[str, Any]) -> list[str]:
    asked = record["results"][0]["families"]
    return [*(f for f in FAMILIES if f in asked), *(f for f in asked if f not in FAMILIES)]


def _cells(result: Mapping[str, Any], families: Sequence[str]) -> list[str]:
    accuracy = result["accuracy"]
    error = accuracy["standard_error"]
    spread = "" if error is None else f"±{100 * error:.1f}"
    return [
        result["method"] or "unpruned",
        f"{result['visual_tokens']:.0f}",
        f"{100 * accuracy['value']:.1f}{spread}",
        *(f"{100 * result['families'][family]['value']:.1f}" for family in families),
        f"{result['kv_cache_bytes'] / 1000:.0f}",
        f"{result['prefill_flops'] / 1e6:.0f}",
    ]
