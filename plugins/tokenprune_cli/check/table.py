# SPDX-License-Identifier: Apache-2.0
"""Print what was checked: a line for each model, or for each method of a single model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from tokenprune_evaluation.tables import Table

from tokenprune.trial import ALL_PROMISES, CACHE, FAILED, NOT_APPLICABLE, PROMISES
from tokenprune_cli.check.running import CheckRecord, is_broken

Record = Mapping[str, Any]  # of a model, or of a promise with a method


def show(record: CheckRecord) -> None:
    """Print the table, what does not apply and why, the broken promises and the verdict."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    single = record.models[0] if len(record.models) == 1 else None
    if record.models:
        table = _table_of_models(record.models) if single is None else _table_of_methods(single)
        console.print(table.rich(), soft_wrap=False)
        console.print(_legend(record.models), style="dim")
    for entry in record.left_out:
        console.print(f"not checked: {entry['name']}: {entry['reason']}")
    for promise in single["records"] if single else ():
        if promise["promise"] == ALL_PROMISES and promise["outcome"] == NOT_APPLICABLE:
            console.print(f"not applicable: {promise['method']}: {promise['note'].split('. ')[0]}")
    for model in record.models:
        for promise in model["records"]:
            if promise["outcome"] == FAILED:
                console.print(f"FAILED: {model['name']}: {_sentence(promise)}", style="bold red")
    console.print(_verdict(record), style="bold" if record.passed else "bold red")


def _table_of_models(models: Sequence[Record]) -> Table:
    """Lay out the largest difference of each promise, over the methods that run."""
    rows = []
    for model in models:
        n_methods = len({promise["method"] for promise in model["records"]})
        ran = f"{len(_ran(model))} of {n_methods}"
        rows.append([model["name"], ran, *_cells(model["records"]), f"{model['seconds']:.1f}"])
    return Table(
        ("model", "methods", *PROMISES, "seconds"),
        rows,
        styles={i: "red" for i, model in enumerate(models) if is_broken(model)},
    )


def _table_of_methods(model: Record) -> Table:
    """Lay out the difference of each promise with each method that runs."""
    by_method = _ran(model)
    return Table(
        ("method", *PROMISES, "KV kB"),
        [[method, *_cells(promises), _sizes(promises)] for method, promises in by_method.items()],
        styles={i: "red" for i, ps in enumerate(by_method.values()) if is_broken({"records": ps})},
    )


def _ran(model: Record) -> dict[str, list[Record]]:
    """Return the promises that were checked, by method; without the methods that do not run on the model."""
    by_method: dict[str, list[Record]] = {}
    for promise in model["records"]:
        if promise["promise"] != ALL_PROMISES or promise["outcome"] != NOT_APPLICABLE:
            by_method.setdefault(promise["method"], []).append(promise)
    return by_method


def _cells(promises: Sequence[Record]) -> list[str]:
    return [_cell([p for p in promises if p["promise"] == name]) for name in PROMISES]


def _cell(promises: Sequence[Record]) -> str:
    """Write the largest difference, with a mark if a promise is broken; a dash if nothing applies."""
    measured = [promise["difference"] for promise in promises if promise["difference"] is not None]
    failed = any(promise["outcome"] == FAILED for promise in promises)
    if not measured:
        return "FAILED" if failed else "-"
    largest = f"{max(measured):.1e}" if max(measured) else "0"
    return f"{largest} !" if failed else largest


def _sizes(promises: Sequence[Record]) -> str:
    """Write the size of the cache in kB, with and without pruning; a dash if it was not measured."""
    for promise in promises:
        words = promise["note"].split()
        if promise["promise"] == CACHE and words[1:2] == ["of"] and words[3:] == ["bytes"]:
            return " of ".join(f"{int(word) / 1000:.0f}" for word in (words[0], words[2]))
    return "-"


def _legend(models: Sequence[Record]) -> str:
    """Describe the differences that are allowed, which depend on the dtype."""
    allowed = {(m["dtype"], p["allowed"]) for m in models for p in m["records"] if p["allowed"]}
    others = ", ".join(f"{largest:.1e} in {dtype}" for dtype, largest in sorted(allowed)) or "0"
    return f"largest differences; allowed: identity and undo 0, others {others} relative to the size of a row"


def _sentence(promise: Record) -> str:
    sentence = f"{promise['promise']} with {promise['method']}"
    if promise["promise"] in PROMISES:
        sentence += f" ({PROMISES[promise['promise']]})"
    if promise["difference"] is not None:
        sentence += f": off by {promise['difference']:.1e}, {promise['allowed']:.1e} is allowed"
    return f"{sentence}: {promise['note']}" if promise["note"] else sentence


def _verdict(record: CheckRecord) -> str:
    outcomes = [promise["outcome"] for model in record.models for promise in model["records"]]
    n_checks, n_broken = len(outcomes) - outcomes.count(NOT_APPLICABLE), outcomes.count(FAILED)
    ran = [model["name"] for model in record.models if model["passed"] or is_broken(model)]
    where = f"{len(ran)} models" if len(ran) > 1 else ran[0] if ran else "any model"
    cost = f"{record.seconds:.0f} s, {record.budget}"
    if record.passed:
        return f"passed: all {n_checks} checks on {where} ({cost})"
    if not n_broken:
        return f"FAILED: nothing could be checked on {where}"
    return f"FAILED: {n_broken} of {n_checks} checks on {where} ({cost})"
