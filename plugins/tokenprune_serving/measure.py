# SPDX-License-Identifier: Apache-2.0
"""Send the same requests to vLLM without the plugin, with it idle, and pruned, in turns.

Each contender is an engine in a process of its own, and all of them are started first. In every round they
answer the same requests one after the other, in an order that is reversed from round to round, so that other
load on the machine and slow changes of its speed affect all of them. Engines that wait do not compute.

A round is the unit of the statistics: requests that are answered together share their batches, so that their
times are not independent, but rounds are. Contenders are compared within rounds.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tokenprune_evaluation.errors import BadInputError

from tokenprune_serving.engine import EngineProcess
from tokenprune_serving.load import IDLE, NONE, Load
from tokenprune_serving.record import Run, with_ratios

GIB = 2**30
ENGINE_BYTES = 3 * GIB  # of the processes of one engine on a CPU, most of it vLLM and PyTorch


def check_vllm() -> None:
    """Raise an error if vLLM is not installed."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:  # without an origin it is only a folder of that name
        raise BadInputError(
            "vLLM is not installed; run pip install '.[vllm]' in a clone, or see docs/serving.md for "
            "machines without a GPU"
        )


def check_memory(load: Load, free: int) -> None:
    """Raise an error if the engines, which run beside each other, do not fit the free memory, in bytes."""
    n = len(load.contenders()) + 2
    if n * ENGINE_BYTES > free:
        raise BadInputError(
            f"{n} engines run beside each other and need about {n * ENGINE_BYTES / GIB:.0f} GiB of memory; "
            f"{free / GIB:.1f} GiB are free. Measure fewer methods, budgets and cuts at once"
        )


def measure(load: Load, tick: Callable[[str], None]) -> tuple[int, tuple[Run, ...]]:
    """Time all contenders, calling `tick` with what is done; return the number of parameters and the runs."""
    from tokenprune_serving.checkpoint import save

    contenders: dict[str, dict[str, Any] | None] = {NONE: None, IDLE: None, **load.contenders()}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        tick("saving a model")
        parameters = save(Path(folder))
        engines = {}
        for name, pruning in contenders.items():
            tick(f"starting {name}")
            engines[name] = EngineProcess(_task(load, folder, pruning, len(contenders)), name != NONE)
            stack.callback(engines[name].stop)
            engines[name].started()
        results = _rounds(load, engines, tick)
    runs = [
        run_of(name, clients, results[name, clients]) for name in contenders for clients in load.concurrency
    ]
    return parameters, with_ratios(runs, load.comparisons())


def _rounds(
    load: Load, engines: Mapping[str, EngineProcess], tick: Callable[[str], None]
) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Return what each engine measured in each round, by its name and the number of clients."""
    results: dict[tuple[str, int], list[dict[str, Any]]] = {
        (name, clients): [] for name in engines for clients in load.concurrency
    }
    for i in range(load.rounds):
        tick(f"round {i + 1} of {load.rounds}")
        for clients, requests in zip(load.concurrency, load.requests, strict=True):
            for name in order(list(engines), i):
                seed = load.seed + i * (max(load.concurrency) + 1) + clients
                results[name, clients].append(engines[name].serve(clients, requests, seed))
    return results


def order(names: Sequence[str], i: int) -> Sequence[str]:
    """Return the order of contenders in round `i`: forwards and backwards in turn."""
    return names[:: 1 if i % 2 == 0 else -1]


def _task(load: Load, folder: str, pruning: Mapping[str, Any] | None, n_engines: int) -> dict[str, Any]:
    return {
        "folder": folder,
        "pruning": pruning,
        "new_tokens": load.new_tokens,
        "text_tokens": load.text_tokens,
        "max_clients": max(load.concurrency),
        "engines": n_engines,
    }


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least a ratio `share` of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def run_of(name: str, clients: int, rounds: Sequence[Mapping[str, Any]]) -> Run:
    """Summarize the rounds of a contender; its ratios are computed later."""
    firsts = [round(seconds, 4) for one in rounds for seconds in one["first_token_seconds"]]
    rates = tuple(round(len(one["answer_seconds"]) / one["seconds"], 5) for one in rounds)
    return Run(
        name=name,
        concurrency=clients,
        prompt_tokens=rounds[0]["prompt_tokens"],
        requests_per_second=round(median(rates), 4),
        first_token_p50=percentile(firsts, 0.5),
        first_token_p99=percentile(firsts, 0.99),
        first_token_seconds=tuple(firsts),
        round_rates=rates,
        answer_seconds=tuple(round(seconds, 4) for one in rounds for seconds in one["answer_seconds"]),
    )
