# SPDX-License-Identifier: Apache-2.0
"""Measure the speed-up of a vLLM server by pruning: `python -m benchmarks.serving`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tokenprune_cli.console.deliver import deliver
from tokenprune_cli.console.failures import plain_errors, quietly
from tokenprune_cli.console.options import Keeps, MethodNames, OnlyJson, RecordFile
from tokenprune_evaluation.files import check_folder

if TYPE_CHECKING:
    from benchmarks.serving.record import Load, ServingRecord

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    method: MethodNames = None,
    keep: Keeps = None,
    clients: Annotated[
        list[int] | None, typer.Option(min=1, help="Number of concurrent clients; may be repeated.")
    ] = None,
    new_tokens: Annotated[int | None, typer.Option(min=1, help="Length of answers, in tokens.")] = None,
    tower_layer: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Also cut before this block of the vision tower; may be repeated."),
    ] = None,
    output: RecordFile = None,
    as_json: OnlyJson = False,
) -> None:
    """Measure the speed-up of a vLLM server by pruning, with a LLaVA of random weights."""
    with plain_errors(), quietly():
        from tokenprune_cli.console.budgets import budget

        from benchmarks.serving.measure import check_contenders, check_vllm

        check_folder(output)
        keeps = tuple(budget(text, None).keep or 0 for text in keep or ())
        load = _load(tuple(method or ()), keeps, tuple(clients or ()), new_tokens)
        load = dataclasses.replace(load, tower_layers=tuple(tower_layer or ()))
        check_contenders(load)
        check_vllm()
        deliver(serving_record(load), _show, as_json, output)


def _load(
    methods: tuple[str, ...], keeps: tuple[int, ...], clients: tuple[int, ...], new_tokens: int | None
) -> Load:
    """Return the default load with what the command line sets."""
    from benchmarks.serving.record import Load

    changed: dict[str, Any] = {"methods": methods, "keeps": keeps, "concurrency": clients}
    if clients:
        changed["requests"] = tuple(max(6, min(4 * count, count + 24)) for count in clients)
    if new_tokens:
        changed["new_tokens"] = new_tokens
    return dataclasses.replace(Load(), **{name: value for name, value in changed.items() if value})


def _show(record: ServingRecord) -> None:
    from rich.console import Console

    from benchmarks.serving.record import CAPTION, SHORT, table

    console = Console(highlight=False)
    console.print(table(record, SHORT).rich())
    console.print(CAPTION)


def serving_record(load: Load) -> ServingRecord:
    """Measure with a progress line on stderr and return the record."""
    import torch
    from rich.console import Console
    from tokenprune_evaluation.records import Provenance

    from benchmarks.serving.measure import measure
    from benchmarks.serving.record import Served, ServingRecord

    console = Console(stderr=True)
    parameters, runs = measure(load, lambda what: console.print(f"vLLM: {what} ...", highlight=False))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return ServingRecord(
        **vars(Provenance.here(device, "vllm", program="python -m benchmarks.serving")),
        engine="vllm",
        model=Served("a LLaVA with random weights", parameters),
        load=load,
        runs=runs,
    )


if __name__ == "__main__":
    app()
