# SPDX-License-Identifier: Apache-2.0
"""Blocks of docs/compare.md: what `tokenprune compare` measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenprune_cli.tables import Table

from .sources import Blocks, read_record, render

Line = Mapping[str, Any]
QUESTIONS = ("rows", "right", "of own", "to own", "to random", "FLOP", "ms")
CONVERSATION = ("rows", "first", "anew", "of own", "to random", "talk", "of own")


def comparison() -> str:
    """A section for each model of the record, with a table for each protocol and metric."""
    record = read_record("compare")
    return render("compare", record=record, models=[_for_template(model) for model in record["models"]])


def score(protocol: str, method: str, keep: str) -> str:
    """The score of one method at one budget, as in "92.1 %"."""
    for model in read_record("compare")["models"]:
        (metric,) = model["metrics"]
        for line in model["lines"]:
            if (line["protocol"], line["method"], str(line["keep"])) == (protocol, method, keep):
                return f"{_percent(line['scores'][metric]['value'])} %"
    raise ValueError(f"the record has no {method} at {keep} tokens under the protocol {protocol!r}")


def _for_template(model: Mapping[str, Any]) -> dict[str, Any]:
    protocols = list(dict.fromkeys(line["protocol"] for line in model["lines"]))
    cases = [(protocol, metric) for protocol in protocols for metric in model["metrics"]]
    return {
        **model,
        "protocols": protocols,
        "tables": {case: question_table(model, *case).markdown() for case in cases},
        "later": {case: conversation_table(model, *case).markdown() for case in cases}
        if "conversation" in model
        else {},
        "refusals": _refusals(model),
    }


def question_table(model: Mapping[str, Any], protocol: str, metric: str) -> Table:
    """A row for each method at each budget: what it saw, its score and its cost."""

    def cells(line: Line) -> list[str]:
        values, timing = line["scores"][metric], line.get("time_to_first_token_ms")
        return [
            f"{line['visual_rows']['mean']:.1f}",
            _percent(values["value"]),
            _percent(values["of_unpruned"]),
            _interval(values["minus_unpruned"]),
            _interval(values["minus_random"]),
            _operations(line["flops"]["total"]),
            "" if timing is None else f"{timing['median']:.{0 if timing['median'] >= 9.95 else 1}f}",
        ]

    return _table(model, protocol, QUESTIONS, {id(x): cells(x) for x in _reached(model, protocol)})


def conversation_table(model: Mapping[str, Any], protocol: str, metric: str) -> Table:
    """The same rows with the scores of a conversation."""

    def cells(line: Line) -> list[str]:
        first, anew, talk = (line["conversation"][part][metric] for part in ("first", "anew", "talking"))
        return [
            f"{line['visual_rows']['mean']:.1f}",
            _percent(first["value"]),
            _percent(anew["value"]),
            _percent(anew["of_unpruned"]),
            _interval(anew["minus_random"]),
            _percent(talk["value"]),
            _percent(talk["of_unpruned"]),
        ]

    return _table(model, protocol, CONVERSATION, {id(x): cells(x) for x in _reached(model, protocol)})


def _reached(model: Mapping[str, Any], protocol: str) -> list[Line]:
    return [line for line in model["lines"] if line["protocol"] == protocol and line["refused"] is None]


def _table(
    model: Mapping[str, Any], protocol: str, heads: tuple[str, ...], cells: Mapping[int, list[str]]
) -> Table:
    """Budget and method before the cells of each line; a budget out of reach has the number of its reason."""
    refusals, rows = _refusals(model), []
    for line in model["lines"]:
        if line["protocol"] == protocol:
            name = f"{line['method'] or 'unpruned'}{' ?' if line['saw_the_question'] else ''}"
            unreached = ["no", f"[{refusals.get(line['refused'])}]", *[""] * (len(heads) - 2)]
            keep = "" if line["keep"] is None else str(line["keep"])
            rows.append([keep, name, *cells.get(id(line), unreached)])
    return Table(("keep", "method", *heads), rows, align="rl" + "r" * len(heads))


def _refusals(model: Mapping[str, Any]) -> dict[str, int]:
    """Reasons why budgets cannot be reached, numbered."""
    reasons = dict.fromkeys(line["refused"] for line in model["lines"] if line["refused"] is not None)
    return {reason: number for number, reason in enumerate(reasons, 1)}


def _operations(count: float) -> str:
    """Write a number of operations with three digits, and M or G for millions and so on."""
    for power, letter in ((15, "P"), (12, "T"), (9, "G")):
        if count >= 0.9995 * 10**power:
            scaled = count / 10**power
            return f"{scaled:.{max(0, 3 - len(str(int(scaled))))}f}{letter}"
    return f"{count / 1e6:.0f}M"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _interval(difference: Mapping[str, Any] | None) -> str:
    if difference is None or difference["low"] is None:
        return ""
    return "..".join(_signed(difference[end]) for end in ("low", "high"))


def _signed(share: float) -> str:
    points = f"{100 * share:+.1f}"
    return "0.0" if points in ("+0.0", "-0.0") else points


BLOCKS: Blocks = {"comparison": comparison, "score": score}
