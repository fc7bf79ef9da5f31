# SPDX-License-Identifier: Apache-2.0
"""The tables of a comparison, within 80 columns, and the conclusions drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from tokenprune_evaluation.tables import Table

from tokenprune_cli.compare.enough import too_few

LEGEND = (
    "rows: visual rows entering a layer of the language model, mean over the layers. right %: the metric. "
    "left %: what is left of the unpruned model's score. against unpruned, against random: 95 % interval of "
    "the difference, in points, to the unpruned model and to random tokens at the same budget, on the same "
    "questions (paired bootstrap over pictures); an interval that contains 0 is noise. FLOP: operations "
    "before the first token, in the vision tower, token selection and language model. ms: time to the first "
    "token of one question. ?: the method saw the question."
)
CONVERSATION_LEGEND = (
    "first %: the questions for which tokens were selected. anew %: later questions about the same pictures, "
    "each asked on the rows that the first one left in the cache, without its words. in turn %: the same "
    "questions one after the other, on the whole cache with all earlier questions and answers. left %, "
    "against random: as above, for the column to the left."
)
Line = Mapping[str, Any]  # one of a record's lines


@dataclass(frozen=True)
class Layout:
    """The headings of a table, `method` first, and a function that fills the other columns of a line."""

    columns: tuple[str, ...]
    cells: Callable[[Line, str], list[str]]


def table(
    record: Mapping[str, Any],
    protocol: str,
    metric: str,
    layout: Layout,
    title: str | None = None,
    style: Callable[[Line], str] = lambda line: "",
) -> Table:
    """Lay out the table of a protocol, with each budget above its lines.

    If a method cannot reach a budget, its line has the number of the reason; see `refusals`. `style` returns
    the style of a line, for `Table`.
    """
    rows, styles, notes = list[list[str]](), dict[int, str](), refusals(record)
    lines = [line for line in record["lines"] if line["protocol"] == protocol]
    for keep, group in groupby(lines, key=itemgetter("keep")):
        rows += [[f"keep {keep}"]] if keep is not None else []
        for line in group:
            name = (line["method"] or "unpruned") + (" ?" if line["saw_the_question"] else "")
            if line["refused"] is None:
                cells = layout.cells(line, metric)
            else:
                cells = ["no", f"[{notes[line['refused']]}]", *[""] * (len(layout.columns) - 3)]
            styles[len(rows)] = style(line)
            rows.append([name, *cells])
    return Table(layout.columns, rows, title, styles=styles)


def _question_cells(line: Line, metric: str) -> list[str]:
    score, milliseconds = line["scores"][metric], line["time_to_first_token_ms"]["median"]
    return [
        f"{line['visual_rows']['mean']:.1f}",
        percent(score["value"]),
        percent(score["of_unpruned"]),
        _ends(score["minus_unpruned"]),
        _ends(score["minus_random"]),
        operations(line["flops"]["total"]),
        f"{milliseconds:.0f}" if milliseconds >= 9.95 else f"{milliseconds:.1f}",
    ]


def _conversation_cells(line: Line, metric: str) -> list[str]:
    first, anew, talking = (line["conversation"][part][metric] for part in ("first", "anew", "talking"))
    return [
        f"{line['visual_rows']['mean']:.1f}",
        percent(first["value"]),
        percent(anew["value"]),
        percent(anew["of_unpruned"]),
        _ends(anew["minus_random"]),
        percent(talking["value"]),
        percent(talking["of_unpruned"]),
    ]


QUESTIONS = Layout(
    ("method", "rows", "right\n%", "left\n%", "against\nunpruned", "against\nrandom", "FLOP", "ms"),
    _question_cells,
)
CONVERSATION = Layout(
    ("method", "rows", "first\n%", "anew\n%", "left\n%", "against\nrandom", "in turn\n%", "left\n%"),
    _conversation_cells,
)


def refusals(record: Mapping[str, Any]) -> dict[str, int]:
    """Number the reasons why budgets cannot be reached."""
    reasons = dict.fromkeys(line["refused"] for line in record["lines"] if line["refused"] is not None)
    return {reason: number for number, reason in enumerate(reasons, 1)}


def conclusions(record: Mapping[str, Any], protocol: str) -> list[str]:
    """Return a sentence for each budget: the best methods, and those that are not clearly below them.

    With too few questions or pictures, the only sentence says so.
    """
    few = too_few(record)
    if few is not None:
        return [few]
    sentences = []
    for at in record["leaders"]:
        if at["protocol"] != protocol:
            continue
        sentence = (
            f"keep {at['keep']}: {', '.join(at['best'])} {'is' if len(at['best']) == 1 else 'are'} highest"
        )
        if at["not_clearly_below"]:
            sentence += f"; not clearly below: {', '.join(at['not_clearly_below'])}"
        elif at["clearly_below"]:
            sentence += "; all others are clearly below"
        sentences.append(sentence)
    return sentences


def operations(count: float) -> str:
    """Format a number of operations with three digits and M, G, T or P, as in "1.05G"."""
    for power, letter in ((15, "P"), (12, "T"), (9, "G")):
        if count >= 0.9995 * 10**power:
            scaled = count / 10**power
            return f"{scaled:.{max(0, 3 - len(str(int(scaled))))}f}{letter}"
    return f"{count / 1e6:.0f}M"


def percent(share: float | None) -> str:
    """Format a share in per cent with one decimal; an empty string for None."""
    return "" if share is None else f"{100 * share:.1f}"


def _ends(difference: Mapping[str, Any] | None) -> str:
    if difference is None or difference["low"] is None:
        return ""
    return "..".join(_signed(difference[end]) for end in ("low", "high"))


def _signed(share: float) -> str:
    points = f"{100 * share:+.1f}"
    return "0.0" if points in ("+0.0", "-0.0") else points
