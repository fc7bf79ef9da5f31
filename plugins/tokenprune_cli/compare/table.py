# SPDX-License-Identifier: Apache-2.0
"""The tables of a comparison, within 80 columns, and the conclusions drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokenprune_cli.tables import Table

LEGEND = (
    "rows: mean visual rows entering a layer of the language model, over its layers. right: the metric, in "
    "per cent; of own: in per cent of the model's own, unpruned. to own, to random: 95 % interval of how "
    "many points it is above the unpruned model, and above random tokens at the same budget, on the same "
    "questions (paired bootstrap over pictures); one that holds 0 is noise. FLOP: operations before the "
    "first token, of tower, choosing and language model. ms: time to the first token of one question. "
    "?: the method saw the question."
)
CONVERSATION_LEGEND = (
    "first: the questions for which tokens were chosen. anew: later questions about the same pictures, each "
    "asked of the rows that the first one left in the cache, its words taken back. talk: the same questions "
    "in turn, on the whole cache with everything said before. of own, to random: as above, of what stands "
    "to the left."
)
Line = Mapping[str, Any]  # of a record


def groups(record: Mapping[str, Any], protocol: str) -> Iterator[tuple[int | None, list[Line]]]:
    """Yield the lines of a protocol by budget; the unpruned model's comes first, with None."""
    lines = [line for line in record["lines"] if line["protocol"] == protocol]
    for keep in dict.fromkeys(line["keep"] for line in lines):
        yield keep, [line for line in lines if line["keep"] == keep]


@dataclass(frozen=True)
class Layout:
    """The columns of a table; `method` comes first, `cells` fills the others from a line and a metric."""

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
    """Lay out the table of a protocol, with the budget above its lines.

    A line of a budget that cannot be reached has the number of the reason; see `refusals`. `style` returns
    the style of a line, for `Table`.
    """
    rows, styles, notes = list[list[str]](), dict[int, str](), refusals(record)
    for keep, lines in groups(record, protocol):
        rows += [[f"keep {keep}"]] if keep is not None else []
        for line in lines:
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
    ("method", "rows", "right", "of own", "to own", "to random", "FLOP", "ms"), _question_cells
)
CONVERSATION = Layout(
    ("method", "rows", "first", "anew", "of own", "to random", "talk", "of own"), _conversation_cells
)


def refusals(record: Mapping[str, Any]) -> dict[str, int]:
    """Return the reasons why budgets cannot be reached, with their numbers."""
    reasons = dict.fromkeys(line["refused"] for line in record["lines"] if line["refused"] is not None)
    return {reason: number for number, reason in enumerate(reasons, 1)}


def conclusions(record: Mapping[str, Any], protocol: str) -> list[str]:
    """Say which methods are best at each budget, and which are not clearly below them."""
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
    """Write a number of operations with three digits and M, G, T or P for millions and so on."""
    for power, letter in ((15, "P"), (12, "T"), (9, "G")):
        if count >= 0.9995 * 10**power:
            scaled = count / 10**power
            return f"{scaled:.{max(0, 3 - len(str(int(scaled))))}f}{letter}"
    return f"{count / 1e6:.0f}M"


def percent(share: float | None) -> str:
    """Write a share in per cent with one decimal; nothing for None."""
    return "" if share is None else f"{100 * share:.1f}"


def _ends(difference: Mapping[str, Any] | None) -> str:
    if difference is None or difference["low"] is None:
        return ""
    return "..".join(_signed(difference[end]) for end in ("low", "high"))


def _signed(share: float) -> str:
    points = f"{100 * share:+.1f}"
    return "0.0" if points in ("+0.0", "-0.0") else points
