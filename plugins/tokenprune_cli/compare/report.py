# SPDX-License-Identifier: Apache-2.0
"""The report: one HTML file that needs nothing else, with tables, plots and pictures of what was kept."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tokenprune_cli.compare.comparison import Compared
from tokenprune_cli.compare.pictures import picture_path
from tokenprune_cli.compare.plan import key
from tokenprune_cli.compare.protocols import EXPLANATIONS
from tokenprune_cli.compare.question_set import QuestionSet
from tokenprune_cli.compare.scoring import is_right
from tokenprune_cli.compare.table import (
    CONVERSATION,
    CONVERSATION_LEGEND,
    LEGEND,
    QUESTIONS,
    Layout,
    conclusions,
    groups,
    refusals,
    table,
)
from tokenprune_cli.evaluation.settings import UNPRUNED
from tokenprune_cli.records import Provenance
from tokenprune_cli.tables import templates

Plots = Mapping[tuple[str, str, str], Mapping[str, str]]  # by model, protocol and metric: SVG by axis


def report(
    record: Mapping[str, Any], questions: QuestionSet, compared: Sequence[Compared], plots: Plots
) -> str:
    """Write the page.

    Parameters
    ----------
    record
        What `compare.json` holds.
    questions, compared
        For the pictures.
    plots
        The plots of every model, protocol and metric of the record, as `compare.plots.plots` draws them.
    """
    return (
        templates()
        .get_template("compare/report.html.jinja")
        .render(
            provenance=Provenance.of(record),
            models=[_model(model, questions, plots) for model in compared],
            legend=LEGEND,
            conversation_legend=CONVERSATION_LEGEND,
        )
    )


def _model(compared: Compared, questions: QuestionSet, plots: Plots) -> dict[str, Any]:
    record = compared.record
    return {
        "record": record,
        "protocols": [
            {
                "name": protocol,
                "explanation": EXPLANATIONS[protocol],
                "parts": [
                    _part(record, protocol, metric, plots[record["name"], protocol, metric])
                    for metric in record["metrics"]
                ],
                "conclusions": conclusions(record, protocol),
            }
            for protocol in dict.fromkeys(line["protocol"] for line in record["lines"])
        ],
        "refusals": refusals(record),
        "examples": [_example(compared, questions, number) for number in questions.examples],
    }


def _part(record: Mapping[str, Any], protocol: str, metric: str, plots: Mapping[str, str]) -> dict[str, Any]:
    """Plots and tables of one metric."""
    later = "conversation" in record
    return {
        "plots": [svg[svg.index("<svg") :] for svg in plots.values()],
        "table": _table(record, protocol, metric, QUESTIONS, f"{metric}, per cent"),
        "conversation": later
        and _table(record, protocol, metric, CONVERSATION, f"conversation: {metric}, per cent"),
    }


def _table(record: Mapping[str, Any], protocol: str, metric: str, layout: Layout, title: str) -> str:
    """One table; the class of a line says on which side of 0 its interval to random tokens lies."""
    plain, styles = table(record, protocol, metric, layout, title), dict[int, str]()
    lines = [line for _, group in groups(record, protocol) for line in group]  # in the order of the rows
    places = [i for i, row in enumerate(plain.rows) if len(row) > 1]
    for place, line in zip(places, lines, strict=True):
        if line["refused"] is not None:
            styles[place] = "refused"
            continue
        scores = line["scores"] if layout is QUESTIONS else line["conversation"]["anew"]
        random = scores[metric]["minus_random"]
        if random is not None and random["low"] is not None and (random["low"] > 0 or random["high"] < 0):
            styles[place] = "above" if random["low"] > 0 else "below"
    return replace(plain, styles=styles).html()


def _example(compared: Compared, questions: QuestionSet, number: int) -> dict[str, Any]:
    """One question, with the pictures of all settings by budget; settings that protocols share stand once."""
    lines = compared.record["lines"]
    n_protocols = len({line["protocol"] for line in lines})
    by_keep: dict[int, dict[str, list[Mapping[str, Any]]]] = {}
    for line in lines:
        if line["keep"] is not None:
            by_keep.setdefault(line["keep"], {}).setdefault(line["cell"], []).append(line)

    def picture(cell: str, title: str) -> dict[str, Any]:
        answers, path = compared.found.get(cell), picture_path(compared.pictures, cell, number)
        if answers is None or answers.refused is not None:
            return {"title": title, "answer": None}
        return {
            "title": title,
            "answer": answers.answers[number],
            "is_right": is_right(questions.items[number], answers.answers[number]),
            "image": base64.b64encode(path.read_bytes()).decode() if path.is_file() else "",
        }

    return {
        "item": questions.items[number],
        "unpruned": picture(key(UNPRUNED), "unpruned"),
        "pictures": {
            keep: [picture(cell, _title(shared, n_protocols)) for cell, shared in cells.items()]
            for keep, cells in by_keep.items()
        },
    }


def _title(lines: Sequence[Mapping[str, Any]], n_protocols: int) -> str:
    """Method, protocol where it makes a difference, and rows."""
    line = lines[0]
    name = line["method"] if len(lines) == n_protocols else f"{line['method']} ({line['protocol']})"
    if line["refused"] is not None:
        return f"{name}: not reachable"
    return f"{name}, {line['visual_rows']['mean']:.1f} rows"
