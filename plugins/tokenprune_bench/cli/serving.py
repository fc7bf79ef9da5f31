# SPDX-License-Identifier: Apache-2.0
"""`tokenprune bench --engine vllm`."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenprune_bench.cli.failures import BadInputError, plain_errors, quietly
from tokenprune_bench.cli.files import check_folder, deliver


def bench_vllm(
    given: dict[str, Any],
    method: list[str] | None,
    keep: list[str] | None,
    clients: list[int] | None,
    new_tokens: list[int] | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure what pruning is worth to a server; `given` are options that mean nothing there."""
    with plain_errors(), quietly():
        from tokenprune_bench.cli.budgets import budget
        from tokenprune_bench.serving.measure import Load, check_contenders

        wrong = [name for name, value in given.items() if value is not None]
        if wrong:
            raise BadInputError(f"{', '.join(wrong)} cannot be given with --engine vllm")
        check_folder(output)
        keeps = tuple(budget(text, None).keep or 0 for text in keep or ())
        check_contenders(method or Load().methods, keeps or Load().keeps)
        record = serving_record(tuple(method or ()), keeps, tuple(clients or ()), tuple(new_tokens or ()))
        deliver(record, _show, as_json, output)


def _show(record: Mapping[str, Any]) -> None:
    from rich.console import Console

    from tokenprune_bench.serving.table import terminal_table

    Console(highlight=False).print(terminal_table(record))


def serving_record(
    methods: tuple[str, ...], keeps: tuple[int, ...], clients: tuple[int, ...], new_tokens: tuple[int, ...]
) -> dict[str, Any]:
    """Measure behind a progress line on stderr, and put the record together; empty: what is measured else."""
    import torch
    from rich.console import Console

    from tokenprune_bench.bench import record as records
    from tokenprune_bench.serving.measure import Load, check_vllm, measure

    check_vllm()
    if len(new_tokens) > 1:
        raise BadInputError("--engine vllm measures one length of answers; give --new-tokens once")
    changed: dict[str, Any] = {"methods": methods, "keeps": keeps, "concurrency": clients}
    if clients:
        changed["requests"] = tuple(max(6, min(4 * one, one + 24)) for one in clients)
    if new_tokens:
        changed["new_tokens"] = new_tokens[0]
    load = dataclasses.replace(Load(), **{name: value for name, value in changed.items() if value})
    console = Console(stderr=True)
    found = measure(load, lambda what: console.print(f"vLLM: {what} ...", highlight=False))
    machine = records.machine(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    machine["versions"]["vllm"] = version("vllm")
    return {
        "command": shlex.join(["tokenprune", *sys.argv[1:]]),
        "engine": "vllm",
        "model": {"about": "a LLaVA with random weights", "parameters": found["parameters"]},
        "load": dataclasses.asdict(load),
        **machine,
        "runs": found["entries"],
    }
