# SPDX-License-Identifier: Apache-2.0
"""Block of docs/methods/index.md: all methods under one protocol, beside published figures."""

from __future__ import annotations

import csv

from tokenprune_evaluation.tables import Table

from .evaluation import PRUNING
from .methods import built_in, link
from .sources import DOCS, Blocks, measured, read_record

KEEPS = (36, 18, 9)  # mean rows entering a layer, of 144
SOURCES = {  # letters of docs/data/reported.csv; "a" is table B of ZOO-Prune's supplement
    "zoo": "a",
    "prior": "b",
    "clse": "c",
    "sid": "d",
    "holov": "e",
}
REPORTED_AT = "64"  # of 576


def guide() -> str:
    """A row for each method: right answers under the matched protocol, and reported figures."""
    record = read_record("compare-matched")
    (model,) = record["models"]
    (metric,) = model["metrics"]
    here = {
        (line["method"], line["keep"]): f"{100 * line['scores'][metric]['value']:.1f}"
        for line in model["lines"]
        if line["protocol"] == "matched" and "scores" in line
    }
    elsewhere = reported()
    shown = [name for name in built_in() if any((name, keep) in here for keep in KEEPS)]
    rows = [
        [link(name), *(here.get((name, keep), "") for keep in KEEPS), ", ".join(elsewhere.get(name, ()))]
        for name in shown
    ]
    rows += [["downsample", *(here[("downsample", keep)] for keep in KEEPS), ""]]
    rows += [["unpruned", *[here[(None, None)]] * len(KEEPS), "100"]]
    heads = ("method", *(f"{keep} of 144" for keep in KEEPS), f"reported at {REPORTED_AT} of 576")
    table = Table(heads, rows, align="lrrrl").markdown()
    asked = f"{model['questions']} questions about {model['pictures']} pictures."
    return f"{table}\n\n{asked} {measured(record)}"


def reported() -> dict[str, list[str]]:
    """Return published percentages of the unpruned model's scores, by method, as in "95.5 (a)"."""
    figures: dict[str, list[str]] = {}
    for row in _lines("table-b"):
        if row["tokens"] == REPORTED_AT:
            method = PRUNING[row["method"]].split(",")[0].removeprefix("method=")
            figures.setdefault(method, []).append(f"{row['average']} ({SOURCES['zoo']})")
    for row in _lines("reported"):
        if row[REPORTED_AT]:
            figures.setdefault(row["method"], []).append(f"{row[REPORTED_AT]} ({SOURCES[row['source']]})")
    return figures


def _lines(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((DOCS / "data" / f"{name}.csv").read_text(encoding="utf-8").splitlines()))


BLOCKS: Blocks = {"guide": guide}
