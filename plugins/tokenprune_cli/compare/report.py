# SPDX-License-Identifier: Apache-2.0
"""The report: a self-contained HTML file with tables, plots and pictures of what was kept."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenprune_evaluation.pictures import picture_path
from tokenprune_evaluation.question_set import QuestionSet
from tokenprune_evaluation.records import Provenance
from tokenprune_evaluation.settings import UNPRUNED, key
from tokenprune_evaluation.tables import templates

from tokenprune_cli.compare import table as tables
from tokenprune_cli.compare.certified import certified_table
from tokenprune_cli.compare.comparison import ModelResult
from tokenprune_cli.compare.enough import too_few
from tokenprune_cli.compare.protocols import EXPLANATIONS
from tokenprune_cli.compare.scoring import is_right

Plots = Mapping[tuple[str, str, str], Mapping[str, str]]  # by model, protocol and metric: SVG by axis


def report(
    record: Mapping[str, Any], questions: QuestionSet, compared: Sequence[ModelResult], plots: Plots
) -> str:
    """Return the page.

    Parameters
    ----------
    record
        The contents of `compare.json`.
    questions, compared
        Give the questions, answers and pictures of the examples.
    plots
        The plots of every model, protocol and metric of the record, as `compare.plots.plots` draws them.
    """
    template = templates(Path(__file__).parents[1]).get_template("compare/report.html.jinja")
    return template.render(
        provenance=Provenance.of(record),
        models=[
            (model.record, [_example(model, questions, number) for number in questions.examples])
            for model in compared
        ],
        plots=plots,
        explanations=EXPLANATIONS,
        tables=tables,
        html_table=_html_table,
        certified_table=certified_table,
    )


def _html_table(record: Mapping[str, Any], protocol: str, metric: str, later: bool = False) -> str:
    """Return a table whose lines have the class `refused`, or `above` or `below` if they are so of random.

    With too few questions or pictures no line is above or below.
    """
    few = too_few(record)

    def style(line: Mapping[str, Any]) -> str:
        if line["refused"] is not None:
            return "refused"
        scores = line["conversation"]["anew"] if later else line["scores"]
        random = scores[metric]["minus_random"]
        if few or random is None or random["low"] is None or random["low"] <= 0 <= random["high"]:
            return ""
        return "above" if random["low"] > 0 else "below"

    layout = tables.CONVERSATION if later else tables.QUESTIONS
    title = f"{'conversation: ' if later else ''}{metric}, per cent"
    return tables.table(record, protocol, metric, layout, title, style).html()


def _example(compared: ModelResult, questions: QuestionSet, number: int) -> dict[str, Any]:
    """Return a question with the pictures of all settings by budget; shared settings appear once."""
    lines = compared.record["lines"]
    n_protocols = len({line["protocol"] for line in lines})

    def picture(cell: str, title: str) -> dict[str, Any]:
        answers, path = compared.answers.get(cell), picture_path(compared.pictures, cell, number)
        if answers is None or answers.refused is not None:
            return {"title": title, "answer": None}
        return {
            "title": title,
            "answer": answers.answers[number],
            "is_right": is_right(questions.items[number], answers.answers[number]),
            "image": base64.b64encode(path.read_bytes()).decode() if path.is_file() else "",
        }

    by_cell: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        if line["keep"] is not None:
            by_cell.setdefault(line["cell"], []).append(line)
    pictures: dict[int, list[dict[str, Any]]] = {}
    for cell, sharing in by_cell.items():
        line = sharing[0]
        name = line["method"] if len(sharing) == n_protocols else f"{line['method']} ({line['protocol']})"
        rows = ": not reachable" if line["refused"] else f", {line['visual_rows']['mean']:.1f} rows"
        pictures.setdefault(line["keep"], []).append(picture(cell, name + rows))
    unpruned = picture(key(UNPRUNED), "unpruned")
    return {"item": questions.items[number], "unpruned": unpruned, "pictures": pictures}
