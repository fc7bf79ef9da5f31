# SPDX-License-Identifier: Apache-2.0
"""A comparison's tables, within 80 columns, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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


def groups(record: Mapping[str, Any], protocol: str) -> Iterator[tuple[int | None, list[Mapping[str, Any]]]]:
    """Lines of a protocol by budget; the unpruned model's comes first, with None."""
    lines = [line for line in record["lines"] if line["protocol"] == protocol]
    for keep in dict.fromkeys(line["keep"] for line in lines):
        yield keep, [line for line in lines if line["keep"] == keep]


@dataclass(frozen=True)
class Layout:
    """A table's columns, and what stands in them: `method` comes first."""

    columns: tuple[str, ...]
    cells: Callable[[Mapping[str, Any], str], list[str]]

    def row(self, line: Mapping[str, Any], metric: str, notes: Mapping[str, int]) -> list[str]:
        """What stands in one line; one that cannot be reached says so and points to the reason."""
        name = "unpruned" if line["method"] is None else line["method"]
        name += " ?" if line["saw_the_question"] else ""
        if line["refused"] is not None:
            return [name, "no", f"[{notes[line['refused']]}]", *[""] * (len(self.columns) - 3)]
        return [name, *self.cells(line, metric)]


def table(
    record: Mapping[str, Any], protocol: str, metric: str, layout: Layout, title: str | None = None
) -> Table:
    """Lay out one protocol's table; the budget stands above its lines."""
    rows, notes = list[list[str]](), refusals(record)
    for keep, lines in groups(record, protocol):
        rows += [[f"keep {keep}"]] if keep is not None else []
        rows += [layout.row(line, metric, notes) for line in lines]
    return Table(layout.columns, rows, title)


def _question_cells(line: Mapping[str, Any], metric: str) -> list[str]:
    score = line["scores"][metric]
    timing = line.get("time_to_first_token_ms")
    return [
        f"{line['visual_rows']['mean']:.1f}",
        _percent(score["value"]),
        _percent(score["of_unpruned"]),
        _ends(score["minus_unpruned"]),
        _ends(score["minus_random"]),
        operations(line["flops"]["total"]),
        "" if timing is None else _short(timing["median"]),
    ]


def _conversation_cells(line: Mapping[str, Any], metric: str) -> list[str]:
    first, anew, talking = (line["conversation"][part][metric] for part in ("first", "anew", "talking"))
    return [
        f"{line['visual_rows']['mean']:.1f}",
        _percent(first["value"]),
        _percent(anew["value"]),
        _percent(anew["of_unpruned"]),
        _ends(anew["minus_random"]),
        _percent(talking["value"]),
        _percent(talking["of_unpruned"]),
    ]


QUESTIONS = Layout(
    ("method", "rows", "right", "of own", "to own", "to random", "FLOP", "ms"), _question_cells
)
CONVERSATION = Layout(
    ("method", "rows", "first", "anew", "of own", "to random", "talk", "of own"), _conversation_cells
)


def refusals(record: Mapping[str, Any]) -> dict[str, int]:
    """Reasons why budgets cannot be reached, numbered."""
    reasons = dict.fromkeys(line["refused"] for line in record["lines"] if line["refused"] is not None)
    return {reason: number for number, reason in enumerate(reasons, 1)}


def conclusions(record: Mapping[str, Any], protocol: str) -> list[str]:
    """Say who is ahead at each budget, and whom the questions do not tell apart from it."""
    return [
        conclusion(at["keep"], at["best"], at["not_clearly_below"], bool(at["clearly_below"]))
        for at in record["leaders"]
        if at["protocol"] == protocol
    ]


def conclusion(keep: int, best: Sequence[str], level: Sequence[str], others: bool) -> str:
    """Say who is ahead at a budget; `level` are not clearly below, and there are `others` or none."""
    text = f"keep {keep}: {', '.join(best)} {'is' if len(best) == 1 else 'are'} highest"
    if level:
        return f"{text}; not clearly below: {', '.join(level)}"
    return f"{text}; all others are clearly below" if others else text


def operations(count: float) -> str:
    """Write a number of operations with three digits and M, G, T or P for millions and so on."""
    for power, letter in ((15, "P"), (12, "T"), (9, "G")):
        if count >= 0.9995 * 10**power:
            scaled = count / 10**power
            return f"{scaled:.{max(0, 3 - len(str(int(scaled))))}f}{letter}"
    return f"{count / 1e6:.0f}M"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _ends(difference: Mapping[str, Any] | None) -> str:
    if difference is None or difference["low"] is None:
        return ""
    return f"{_signed(difference['low'])}..{_signed(difference['high'])}"


def _signed(share: float) -> str:
    points = f"{100 * share:+.1f}"
    return "0.0" if points in ("+0.0", "-0.0") else points
