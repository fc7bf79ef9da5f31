# SPDX-License-Identifier: Apache-2.0
"""`tokenprune bench --engine vllm`: measure the speed-up of a vLLM server by pruning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokenprune_evaluation.files import check_folder

from tokenprune_cli.console.deliver import deliver
from tokenprune_cli.console.failures import BadInputError
from tokenprune_cli.console.tower_cuts import layer_and_keep

if TYPE_CHECKING:
    from tokenprune_serving.load import Load
    from tokenprune_serving.record import ServingRecord


def bench_vllm(
    *,
    methods: Sequence[str],
    keeps: Sequence[str],
    tower_cuts: Sequence[str],
    clients: Sequence[int],
    new_tokens: Sequence[int],
    repeats: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure what the options of the command say, as they are given; empty or None: the default."""
    import torch
    from tokenprune_evaluation.named_methods import plain_text
    from tokenprune_serving.load import N_ROUNDS, check_contenders, make_load
    from tokenprune_serving.measure import check_memory, check_vllm
    from tokenprune_serving.table import show

    from tokenprune_cli.bench.models import free_bytes
    from tokenprune_cli.console.budgets import budget

    if len(new_tokens) > 1:
        raise BadInputError(
            f"--new-tokens takes a single length with --engine vllm, got {len(new_tokens)}; measure one at a "
            "time"
        )
    load = make_load(
        methods=tuple(map(plain_text, methods)),
        keeps=tuple(budget(text, None).keep or 0 for text in keeps),
        tower_cuts=tuple(map(layer_and_keep, tower_cuts)),
        clients=tuple(clients),
        new_tokens=new_tokens[0] if new_tokens else 1,
        rounds=repeats or N_ROUNDS,
    )
    check_contenders(load)
    check_folder(output)
    check_vllm()
    if not torch.cuda.is_available():
        check_memory(load, free_bytes(torch.device("cpu")))
    deliver(serving_record(load), show, as_json, output)


def serving_record(load: Load) -> ServingRecord:
    """Measure with a progress line on stderr and return the record."""
    import torch
    from rich.console import Console
    from tokenprune_evaluation.records import Provenance
    from tokenprune_serving.measure import measure
    from tokenprune_serving.record import Served, ServingRecord

    console = Console(stderr=True)
    parameters, runs = measure(load, lambda what: console.print(f"vLLM: {what} ...", highlight=False))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return ServingRecord(
        **vars(Provenance.here(device, "vllm")),
        engine="vllm",
        model=Served("a LLaVA with random weights", parameters),
        load=load,
        runs=runs,
    )
