# SPDX-License-Identifier: Apache-2.0
"""Send the same requests to vLLM without the plugin, with it idle, and pruned, in separate processes."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenprune_cli.console.failures import BadInputError

from benchmarks.serving.record import IDLE, NONE, Load, Run, with_ratios


def check_vllm() -> None:
    """Raise an error if vLLM is not installed."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:  # without an origin it is only a folder of that name
        raise BadInputError(
            "vLLM is not installed; run pip install -e '.[vllm]' in a clone, or see docs/serving.md for "
            "machines without a GPU"
        )


def measure(load: Load, tick: Callable[[str], None]) -> tuple[int, tuple[Run, ...]]:
    """Time all contenders, calling `tick` with each name; return the number of parameters and the runs."""
    from benchmarks.serving.checkpoint import save

    contenders: list[tuple[str, dict[str, Any] | None]] = [(NONE, None), (IDLE, None)]
    contenders += load.contenders().items()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        tick("a model")
        parameters = save(Path(folder))
        for name, pruning in contenders:
            tick(name)
            results[name] = _run(folder, pruning, load, plugin=name != NONE)
    return parameters, with_ratios([run for name, result in results.items() for run in _runs(name, result)])


def _run(folder: str, pruning: Mapping[str, Any] | None, load: Load, plugin: bool) -> Any:
    task = {
        "folder": folder,
        "pruning": pruning,
        "concurrency": load.concurrency,
        "requests": load.requests,
        "new_tokens": load.new_tokens,
        "text_tokens": load.text_tokens,
        "seed": load.seed,
    }
    # vLLM's own settings; the name of a plugin that does not exist disables all plugins
    settings = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    settings |= {"VLLM_CPU_KVCACHE_SPACE": "1"} | ({} if plugin else {"VLLM_PLUGINS": "none"})
    program = [sys.executable, "-m", "benchmarks.serving.child"]
    done = subprocess.run(
        ["env", *(f"{name}={value}" for name, value in settings.items()), *program, json.dumps(task)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.split("\n") if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise BadInputError(f"vLLM did not run: {last_words(done.stderr)}")
    return json.loads(lines[-1].removeprefix("RESULT "))


def last_words(errors: str) -> str:
    """Return the last line that names tokenprune (engines append tracebacks), else the last line."""
    lines = errors.strip().splitlines() or ["no message"]
    return next((line for line in reversed(lines) if "tokenprune:" in line), lines[-1]).strip()


def check_contenders(load: Load) -> None:
    """Validate methods, budgets and blocks of the tower before any engine is started.

    Raises
    ------
    TokenPruneError, BadInputError
        If a method is unknown or not supported in vLLM, a budget leaves nothing to prune, or the tower has
        no such block.
    """
    from tokenprune_vllm.settings import Settings

    from benchmarks.serving.checkpoint import N_TOKENS, N_TOWER_BLOCKS

    for pruning in load.contenders().values():
        Settings.parse(pruning)
    for keep in load.keeps:
        if keep >= N_TOKENS:
            raise BadInputError(f"--keep {keep} prunes nothing: images have {N_TOKENS} visual tokens")
    for layer in load.tower_layers:
        if layer >= N_TOWER_BLOCKS:
            raise BadInputError(
                f"--tower-layer {layer} is not a block of the tower: they are 0 ... {N_TOWER_BLOCKS - 1}"
            )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least a ratio `share` of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _runs(name: str, result: Mapping[str, Any]) -> list[Run]:
    runs = []
    for run in result["runs"]:
        firsts = [round(value, 4) for value in run["first_token_seconds"]]
        runs.append(
            Run(
                name=name,
                concurrency=run["concurrency"],
                prompt_tokens=result["prompt_tokens"],
                requests_per_second=round(len(firsts) / run["seconds"], 4),
                first_token_p50=percentile(firsts, 0.5),
                first_token_p99=percentile(firsts, 0.99),
                first_token_seconds=tuple(firsts),
            )
        )
    return runs
