# SPDX-License-Identifier: Apache-2.0
"""Tables of published and measured figures, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenprune_evaluation.tables import Table

from benchmarks.paper.results import Judged, judge, read_results
from benchmarks.paper.rows import Cell, Row

Results = Mapping[str, Mapping[str, Any]]
HEADS = (
    *("table", "model", "tokens", "method", "benchmark", "published", "measured"),
    *("difference", "tolerance", "verdict", "note"),
)


def write_reports(
    rows: Sequence[Row], tables: Sequence[str], out: Path, tolerance: float, limit: int | None = None
) -> list[Path]:
    """Write `TABLE.md` and `TABLE.csv` of each table to a folder; return the Markdown files."""
    written = []
    for table in tables:
        own = [row for row in rows if row.table == table]
        judged = []
        for row in own:
            results = read_results(out / "runs" / row.name, row, limit)
            judged.append([(cell, judge(row, cell, results, tolerance, limit)) for cell in row.cells])
        path = out / f"{table}.md"
        _replace(path, markdown(own, judged, tolerance))
        _replace(out / f"{table}.csv", as_csv(own, judged, tolerance))
        written.append(path)
    return written


def markdown(rows: Sequence[Row], judged: Sequence[Sequence[tuple[Cell, Judged]]], tolerance: float) -> str:
    """Return the page of one table: a cell is the published figure, the measured one, and the verdict."""
    columns = [cell.benchmark for cell in rows[0].cells]
    lines = [
        (row.tokens, row.method, *(_text(cell, found) for cell, found in line))
        for row, line in zip(rows, judged, strict=True)
    ]
    table = Table(("tokens", "method", *columns), lines, align="rl" + "l" * len(columns)).markdown()
    counts = Counter(found.verdict for line in judged for _, found in line)
    notes = dict.fromkeys(
        f"- {row.method}, {row.tokens}, {cell.benchmark}: {found.note}"
        for row, line in zip(rows, judged, strict=True)
        for cell, found in line
        if found.note and row.command is not None
    )
    others = {cell.benchmark: cell.maximum for row in rows for cell in row.cells if cell.maximum != 100}
    also = "".join(
        f"; {name}: {tolerance * maximum / 100:g} of {maximum:g}" for name, maximum in others.items()
    )
    parts = [
        f"# {rows[0].table}: {rows[0].model}",
        f"Published / measured figure; reproduced: within {tolerance:g} points of 100{also}.",
        ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())) + ".",
        table,
        "\n".join(notes),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def as_csv(rows: Sequence[Row], judged: Sequence[Sequence[tuple[Cell, Judged]]], tolerance: float) -> str:
    """Return one line a cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADS)
    for row, line in zip(rows, judged, strict=True):
        for cell, found in line:
            measured = difference = ""
            if found.measured is not None:
                measured = f"{found.measured:.2f}"
                if cell.published:
                    difference = f"{found.measured - float(cell.published):+.2f}"
            allowed = f"{tolerance * cell.maximum / 100:g}"
            where = (row.table, row.model, row.tokens, row.method, cell.benchmark, cell.published)
            writer.writerow((*where, measured, difference, allowed, found.verdict, found.note))
    return text.getvalue()


def _text(cell: Cell, found: Judged) -> str:
    figures = [cell.published, "" if found.measured is None else f"{found.measured:.2f}"]
    return f"{' / '.join(filter(None, figures))} {found.verdict}".strip()


def _replace(path: Path, text: str) -> None:
    """Write a file atomically."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
