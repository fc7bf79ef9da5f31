# SPDX-License-Identifier: Apache-2.0
"""Measure what pruning is worth to a vLLM server: `python -m benchmarks.serving`."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from tokenprune_cli.console.failures import plain_errors, quietly
from tokenprune_cli.console.files import check_folder, deliver
from tokenprune_cli.console.options import Keeps, MethodNames, OnlyJson

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    method: MethodNames = None,
    keep: Keeps = None,
    clients: Annotated[
        list[int] | None, typer.Option(min=1, help="Clients at once; may be repeated.")
    ] = None,
    new_tokens: Annotated[int | None, typer.Option(min=1, help="Length of answers.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the JSON here too.", metavar="FILE")] = None,
    as_json: OnlyJson = False,
) -> None:
    """Measure what pruning is worth to a vLLM server, with a LLaVA of random weights."""
    with plain_errors(), quietly():
        from tokenprune_cli.console.budgets import budget

        from benchmarks.serving.measure import Load, check_contenders

        check_folder(output)
        keeps = tuple(budget(text, None).keep or 0 for text in keep or ())
        check_contenders(method or Load().methods, keeps or Load().keeps)
        record = serving_record(tuple(method or ()), keeps, tuple(clients or ()), new_tokens)
        deliver(record, _show, as_json, output)


def _show(record: Mapping[str, Any]) -> None:
    from rich.console import Console

    from benchmarks.serving.table import terminal_table

    Console(highlight=False).print(terminal_table(record))


def serving_record(
    methods: tuple[str, ...], keeps: tuple[int, ...], clients: tuple[int, ...], new_tokens: int | None
) -> dict[str, Any]:
    """Measure behind a progress line on stderr, and put the record together; empty: what is measured else."""
    import torch
    from rich.console import Console
    from tokenprune_cli.bench import record as records

    from benchmarks.serving.measure import Load, check_vllm, measure

    check_vllm()
    changed: dict[str, Any] = {"methods": methods, "keeps": keeps, "concurrency": clients}
    if clients:
        changed["requests"] = tuple(max(6, min(4 * one, one + 24)) for one in clients)
    if new_tokens:
        changed["new_tokens"] = new_tokens
    load = dataclasses.replace(Load(), **{name: value for name, value in changed.items() if value})
    console = Console(stderr=True)
    found = measure(load, lambda what: console.print(f"vLLM: {what} ...", highlight=False))
    machine = records.machine(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    machine["versions"]["vllm"] = version("vllm")
    return {
        "command": shlex.join(["python", "-m", "benchmarks.serving", *sys.argv[1:]]),
        "engine": "vllm",
        "model": {"about": "a LLaVA with random weights", "parameters": found["parameters"]},
        "load": dataclasses.asdict(load),
        **machine,
        "runs": found["entries"],
    }


if __name__ == "__main__":
    app()
