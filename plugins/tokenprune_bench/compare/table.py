# SPDX-License-Identifier: Apache-2.0
"""A comparison's tables: for the terminal within 80 columns, as Markdown, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

COLUMNS = ("method", "rows", "right", "of own", "to own", "to random", "MFLOP", "ms")
LEGEND = (
    "rows: mean visual rows entering a layer of the language model, over its layers. right: the metric, in "
    "per cent; of own: in per cent of the model's own, unpruned. to own, to random: 95 % interval of how "
    "many points it is above the unpruned model, and above random tokens at the same budget, on the same "
    "questions (paired bootstrap over pictures); one that holds 0 is noise. MFLOP: operations before the "
    "first token, of tower, choosing and language model. ms: time to the first token of one question. "
    "?: the method saw the question."
)
CSV_COLUMNS = (
    "model", "protocol", "method", "keep", "metric", "value", "low", "high", "of_unpruned",
    "minus_unpruned_low", "minus_unpruned_high", "minus_random_low", "minus_random_high", "mean_visual_rows",
    "flops", "time_to_first_token_ms", "saw_the_question", "refused",
)  # fmt: skip

Lines = Sequence[Mapping[str, Any]]


def groups(record: Mapping[str, Any], protocol: str) -> Iterator[tuple[int | None, list[Mapping[str, Any]]]]:
    """Lines of a protocol by budget; the unpruned model's comes first, with None."""
    lines = [line for line in record["lines"] if line["protocol"] == protocol]
    for keep in dict.fromkeys(line["keep"] for line in lines):
        yield keep, [line for line in lines if line["keep"] == keep]


def terminal_table(record: Mapping[str, Any], protocol: str, metric: str) -> Table:
    """One protocol's table; the budget stands above its lines."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    notes = refusals(record)
    for keep, lines in groups(record, protocol):
        if keep is not None:
            table.add_section()
            table.add_row(f"keep {keep}", style="bold")
        for line in lines:
            table.add_row(*cells(line, metric, notes))
    return table


def markdown_table(record: Mapping[str, Any], protocol: str, metric: str) -> str:
    """The same in Markdown, with a column for the budget."""
    notes = refusals(record)
    rows = [("keep", *COLUMNS), ("---:", "---", *("---:",) * (len(COLUMNS) - 1))]
    for keep, lines in groups(record, protocol):
        rows += [("" if keep is None else str(keep), *cells(line, metric, notes)) for line in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cells(line: Mapping[str, Any], metric: str, notes: Mapping[str, int]) -> list[str]:
    """What stands in one line; one that cannot be reached says so and points to the reason."""
    name = "unpruned" if line["method"] is None else line["method"]
    name += " ?" if line["saw_the_question"] else ""
    if line["refused"] is not None:
        return [name, "-", f"no [{notes[line['refused']]}]", *[""] * (len(COLUMNS) - 3)]
    score = line["scores"][metric]
    timing = line.get("time_to_first_token_ms")
    return [
        name,
        f"{line['visual_rows']['mean']:.1f}",
        f"{100 * score['value']:.1f}",
        "" if score["of_unpruned"] is None else f"{100 * score['of_unpruned']:.1f}",
        _ends(score["minus_unpruned"]),
        _ends(score["minus_random"]),
        f"{line['flops']['total'] / 1e6:.0f}",
        "" if timing is None else f"{timing['median']:.3g}",
    ]


def refusals(record: Mapping[str, Any]) -> dict[str, int]:
    """Reasons why budgets cannot be reached, numbered."""
    reasons = dict.fromkeys(line["refused"] for line in record["lines"] if line["refused"] is not None)
    return {reason: number for number, reason in enumerate(reasons, 1)}


def conclusions(record: Mapping[str, Any], protocol: str) -> list[str]:
    """Who is ahead at each budget, and whom the questions do not tell apart from it."""
    sentences = []
    for leader in record["leaders"]:
        if leader["protocol"] == protocol:
            level = leader["not_clearly_below"]
            more = f"; not clearly below: {', '.join(level)}" if level else "; all others are clearly below"
            sentences.append(f"keep {leader['keep']}: {leader['best']} is highest{more}")
    return sentences


def csv_text(records: Sequence[Mapping[str, Any]]) -> str:
    """All models' lines, one for each metric."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for record in records:
        for line in record["lines"]:
            head = [record["name"], line["protocol"], line["method"] or "unpruned", line["keep"]]
            tail = [line["saw_the_question"], line["refused"]]
            if line["refused"] is not None:
                writer.writerow([*head, *[""] * 12, *tail])
                continue
            costs = [
                line["visual_rows"]["mean"],
                line["flops"]["total"],
                line.get("time_to_first_token_ms", {}).get("median", ""),
            ]
            for metric, score in line["scores"].items():
                values = [score["value"], score["low"], score["high"], score["of_unpruned"]]
                for other in (score["minus_unpruned"], score["minus_random"]):
                    values += ["", ""] if other is None else [other["low"], other["high"]]
                writer.writerow([*head, metric, *values, *costs, *tail])
    return out.getvalue()


def _ends(difference: Mapping[str, Any] | None) -> str:
    if difference is None or difference["low"] is None:
        return ""
    return f"{_signed(difference['low'])}..{_signed(difference['high'])}"


def _signed(share: float) -> str:
    points = f"{100 * share:+.1f}"
    return "0.0" if points in ("+0.0", "-0.0") else points
