# SPDX-License-Identifier: Apache-2.0
"""The report: one HTML file that needs nothing else, with tables, plots and pictures of what was kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tokenprune_cli.compare.comparison import Compared
from tokenprune_cli.compare.curves import plots
from tokenprune_cli.compare.gallery import gallery
from tokenprune_cli.compare.protocols import EXPLANATIONS
from tokenprune_cli.compare.question_set import QuestionSet
from tokenprune_cli.compare.style import STYLE
from tokenprune_cli.compare.table import (
    CONVERSATION,
    CONVERSATION_LEGEND,
    LEGEND,
    QUESTIONS,
    Layout,
    conclusions,
    groups,
    refusals,
)


def report(record: Mapping[str, Any], questions: QuestionSet, compared: Sequence[Compared]) -> str:
    """Write the page.

    Parameters
    ----------
    record
        What `compare.json` holds.
    questions, compared
        For the pictures.
    """
    versions, machine = record["versions"], record["machine"]
    where = machine["gpu"] or f"{machine['processor'] or machine['architecture']}, {machine['cores']} cores"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>tokenprune compare</title><style>{STYLE}</style></head><body>",
        "<h1>tokenprune compare</h1>",
        f"<p><code>{escape(record['command'])}</code></p>",
        f"<p>{escape(where)}; "
        + ", ".join(f"{escape(name)} {escape(version)}" for name, version in versions.items())
        + "</p>",
    ]
    for one in compared:
        parts += _model(one.record)
        parts += gallery(one, questions)
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _model(record: Mapping[str, Any]) -> list[str]:
    """Tables, plots and sentences about one model."""
    about = (
        f"{record['questions']} questions about {record['pictures']} pictures "
        f"({record['configuration']['questions']['name']}); {record['preprocessing']}; seed "
        f"{record['configuration']['seed']}, {record['configuration']['dtype']}."
    )
    parts = [f"<h2>{escape(record['name'])}</h2>", f"<p>{escape(about)}</p>"]
    for protocol in dict.fromkeys(line["protocol"] for line in record["lines"]):
        parts += [f"<h3>Protocol: {protocol}</h3>", f"<p>{escape(EXPLANATIONS[protocol])}</p>"]
        for metric in record["metrics"]:
            drawn = plots(record, protocol, metric)
            parts += ['<div class="plots">', *(f"<figure>{svg}</figure>" for svg in drawn.values()), "</div>"]
            parts.append(
                '<p class="small">Bars: 95 % intervals over pictures. Dotted: the unpruned model. Squares: '
                "methods that saw the question. Grey: baselines.</p>"
            )
            parts += _table(record, protocol, metric, QUESTIONS, metric)
        parts += ["<ul>", *(f"<li>{escape(s)}</li>" for s in conclusions(record, protocol)), "</ul>"]
        if "conversation" in record:
            for metric in record["metrics"]:
                parts += _table(record, protocol, metric, CONVERSATION, f"conversation: {metric}")
    parts.append(f'<p class="small">{escape(LEGEND)}</p>')
    if "conversation" in record:
        parts.append(f'<p class="small">{escape(CONVERSATION_LEGEND)}</p>')
    reasons = [f"<li>[{n}] {escape(reason)}</li>" for reason, n in refusals(record).items()]
    reasons += [
        f"<li>{escape(method)} cannot be used on this model: {escape(reason)}</li>"
        for method, reason in record["unavailable"].items()
    ]
    return [*parts, '<ul class="small">', *reasons, "</ul>"] if reasons else parts


def _table(record: Mapping[str, Any], protocol: str, metric: str, layout: Layout, caption: str) -> list[str]:
    """One table; the interval to random tokens is bold where it lies above 0."""
    notes = refusals(record)
    parts = [f"<table><caption>{escape(caption)}, per cent</caption><thead><tr>"]
    parts += [f"<th>{escape(column)}</th>" for column in layout.columns]
    parts.append("</tr></thead>")
    for keep, lines in groups(record, protocol):
        parts.append("<tbody>")
        if keep is not None:
            parts.append(f'<tr><th class="keep" colspan="{len(layout.columns)}">keep {keep}</th></tr>')
        for line in lines:
            kind = "refused" if line["refused"] is not None else _kind(line, metric, layout)
            row = "".join(f"<td>{escape(cell)}</td>" for cell in layout.row(line, metric, notes))
            parts.append(f'<tr class="{kind}">{row}</tr>')
        parts.append("</tbody>")
    return [*parts, "</table>"]


def _kind(line: Mapping[str, Any], metric: str, layout: Layout) -> str:
    scores = line["scores"] if layout is QUESTIONS else line["conversation"]["anew"]
    random = scores[metric]["minus_random"]
    if random is None or random["low"] is None:
        return ""
    return "above" if random["low"] > 0 else "below" if random["high"] < 0 else ""
