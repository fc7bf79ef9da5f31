# SPDX-License-Identifier: Apache-2.0
"""The report's pictures: for each example question what every method kept, and whether it was right."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tokenprune_cli.compare.comparison import Compared
from tokenprune_cli.compare.pictures import picture_path
from tokenprune_cli.compare.plan import key
from tokenprune_cli.compare.question_set import Item, QuestionSet
from tokenprune_cli.compare.scoring import is_right
from tokenprune_cli.evaluation import UNPRUNED


def gallery(compared: Compared, questions: QuestionSet) -> list[str]:
    """HTML of all example questions; budgets but the second smallest are folded away."""
    record = compared.record
    keeps = list(dict.fromkeys(line["keep"] for line in record["lines"] if line["keep"] is not None))
    parts = [
        "<h3>What was kept</h3>",
        "<p>The first questions of each family, each about another picture, whatever the answers. Clear: "
        "kept patches; grey: dropped. Below each picture the mean rows entering a layer and the answer. Rows "
        "that a method made of several others stand for no patch and are not drawn. Where both protocols ask "
        "the same of a method it stands once.</p>",
    ]
    for number in questions.examples:
        item = questions.items[number]
        parts.append('<section class="example">')
        parts.append(f"<h4>{escape(item.question.text)} <i>{escape(' / '.join(item.answers))}</i></h4>")
        parts += ['<div class="row">', _figure(compared, key(UNPRUNED), item, number, "unpruned"), "</div>"]
        for keep in keeps:
            is_open = " open" if keep == keeps[-2 if len(keeps) > 1 else -1] else ""
            parts.append(f'<details{is_open}><summary>keep {keep}</summary><div class="row">')
            shown: dict[str, list[Mapping[str, Any]]] = {}
            for line in record["lines"]:
                if line["keep"] == keep:
                    shown.setdefault(line["cell"], []).append(line)
            both = len({line["protocol"] for line in record["lines"]})
            parts += [
                _figure(compared, cell, item, number, _title(lines, both)) for cell, lines in shown.items()
            ]
            parts.append("</div></details>")
        parts.append("</section>")
    return parts


def _title(lines: Sequence[Mapping[str, Any]], n_protocols: int) -> str:
    """Method, protocol where it makes a difference, and rows."""
    line = lines[0]
    name = line["method"] if len(lines) == n_protocols else f"{line['method']} ({line['protocol']})"
    if line["refused"] is not None:
        return f"{name}: not reachable"
    return f"{name}, {line['visual_rows']['mean']:.1f} rows"


def _figure(compared: Compared, cell: str, item: Item, number: int, title: str) -> str:
    """One picture with its caption; without a picture where none could be drawn."""
    one = compared.found.get(cell)
    if one is None or one.refused is not None:
        return f'<figure class="refused"><figcaption>{escape(title)}</figcaption></figure>'
    answer = one.answers[number]
    verdict = "right" if is_right(item, answer) else "wrong"
    said = f'<b class="{verdict}">{escape(answer)} ({verdict})</b>'
    image = _embedded(picture_path(compared.pictures, cell, number))
    return f"<figure>{image}<figcaption>{escape(title)}<br>{said}</figcaption></figure>"


def _embedded(path: Path) -> str:
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="" src="data:image/png;base64,{data}">'
