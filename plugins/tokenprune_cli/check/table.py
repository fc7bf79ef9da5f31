# SPDX-License-Identifier: Apache-2.0
"""What was checked, for the terminal: a line for each model, or for each method of a single one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from tokenprune.trial import ALL_PROMISES, CACHE, FAILED, NOT_APPLICABLE, PROMISES
from tokenprune_cli.check.record import CheckRecord, is_broken
from tokenprune_cli.tables import Table

Record = Mapping[str, Any]


def show(record: CheckRecord, console: Console) -> None:
    """Print tables, what does not apply and why, broken promises, the verdict."""
    models = record.models
    alone = len(models) == 1
    if models:
        console.print((_of_methods(models[0]) if alone else _of_models(models)).rich())
        console.print(_legend(models), style="dim", soft_wrap=True)
    for entry in record.left_out:
        _say(console, f"not checked: {entry['name']}: {entry['reason']}")
    if alone:
        for one in models[0]["records"]:
            if one["promise"] == ALL_PROMISES and one["outcome"] == NOT_APPLICABLE:
                _say(console, f"not applicable: {one['method']}: {one['note'].split('. ')[0]}")
    for model in models:
        for one in model["records"]:
            if one["outcome"] == FAILED:
                _say(console, f"FAILED: {model['name']}: {_sentence(one)}", style="bold red")
    _say(console, _verdict(record), style="bold" if record.passed else "bold red")


def _say(console: Console, sentence: str, style: str | None = None) -> None:
    console.print(sentence, style=style, markup=False, highlight=False, soft_wrap=True)


def _of_models(models: Sequence[Record]) -> Table:
    """The largest difference of each promise, over the methods that run."""
    rows = []
    for model in models:
        by_method = _by_method(model)
        n_ran = sum(not _skipped(records) for records in by_method.values())
        cells = _cells(model["records"])
        rows.append([model["name"], f"{n_ran} of {len(by_method)}", *cells, f"{model['seconds']:.1f}"])
    return Table(
        ("model", "methods", *PROMISES, "seconds"),
        rows,
        styles={i: "red" for i, model in enumerate(models) if is_broken(model)},
    )


def _of_methods(model: Record) -> Table:
    """The difference of each promise with each method that runs."""
    ran = {method: records for method, records in _by_method(model).items() if not _skipped(records)}
    return Table(
        ("method", *PROMISES, "KV kB"),
        [[method, *_cells(records), _sizes(records)] for method, records in ran.items()],
        styles={i: "red" for i, records in enumerate(ran.values()) if is_broken({"records": records})},
    )


def _by_method(model: Record) -> dict[str, list[Record]]:
    methods: dict[str, list[Record]] = {}
    for one in model["records"]:
        methods.setdefault(one["method"], []).append(one)
    return methods


def _skipped(records: Sequence[Record]) -> bool:
    return all(r["promise"] == ALL_PROMISES and r["outcome"] == NOT_APPLICABLE for r in records)


def _cells(records: Sequence[Record]) -> list[str]:
    return [_cell([r for r in records if r["promise"] == promise]) for promise in PROMISES]


def _cell(records: Sequence[Record]) -> str:
    """The largest difference, with a mark where the promise is broken; a dash where nothing applies."""
    measured = [r["difference"] for r in records if r["difference"] is not None]
    failed = any(r["outcome"] == FAILED for r in records)
    if not measured:
        return "FAILED" if failed else "-"
    largest = f"{max(measured):.1e}" if max(measured) else "0"
    return f"{largest} !" if failed else largest


def _sizes(records: Sequence[Record]) -> str:
    """Bytes of the cache in thousands, of how many without pruning; a dash where none were counted."""
    for one in records:
        words = one["note"].split()
        if one["promise"] == CACHE and words[1:2] == ["of"] and words[3:] == ["bytes"]:
            return " of ".join(f"{int(word) / 1000:.0f}" for word in (words[0], words[2]))
    return "-"


def _legend(models: Sequence[Record]) -> str:
    """What is allowed, which follows from the dtype."""
    allowed = {
        (model["dtype"], one["allowed"]) for model in models for one in model["records"] if one["allowed"]
    }
    said = ", ".join(f"{most:.1e} in {dtype}" for dtype, most in sorted(allowed)) or "0"
    exact = "identity and undo: the same bits, 0"
    return f"largest differences; allowed: {exact}; others, relative to the size of a row: {said}"


def _sentence(one: Record) -> str:
    said = f"{one['promise']} with {one['method']}"
    if one["promise"] in PROMISES:
        said += f" ({PROMISES[one['promise']]})"
    if one["difference"] is not None:
        said += f": off by {one['difference']:.1e}, {one['allowed']:.1e} is allowed"
    return f"{said}: {one['note']}" if one["note"] else said


def _verdict(record: CheckRecord) -> str:
    records = [one for model in record.models for one in model["records"]]
    kept = sum(one["outcome"] not in (FAILED, NOT_APPLICABLE) for one in records)
    broken = sum(one["outcome"] == FAILED for one in records)
    ran = [model["name"] for model in record.models if model["passed"] or is_broken(model)]
    where = f"{len(ran)} models" if len(ran) > 1 else ran[0] if ran else "any model"
    took = f"{record.seconds:.0f} s, {record.budget}"
    if record.passed:
        return f"passed: all {kept} checks on {where} ({took})"
    if not broken:
        return f"FAILED: nothing could be checked on {where}"
    return f"FAILED: {broken} of {kept + broken} checks on {where} ({took})"
