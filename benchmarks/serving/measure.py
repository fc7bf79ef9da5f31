# SPDX-License-Identifier: Apache-2.0
"""The same requests to vLLM without our plugin, with it idle, and pruned; each in processes of its own."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenprune_cli.console.failures import BadInputError

NONE, IDLE = "no plugin", "plugin, idle"


@dataclass(frozen=True)
class Load:
    """What each engine is asked: `requests` at each of `concurrency` clients, who wait for their answers."""

    methods: tuple[str, ...] = ("zoo-exact",)
    keeps: tuple[int, ...] = (64,)
    concurrency: tuple[int, ...] = (1, 8, 32)
    requests: tuple[int, ...] = (6, 16, 32)
    new_tokens: int = 1
    text_tokens: int = 32
    seed: int = 0


def check_vllm() -> None:
    """Refuse to go on without vLLM."""
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:  # without origin: just some folder of that name
        raise BadInputError(
            "vLLM is not installed here; pip install -e '.[vllm]' in a clone, on a machine without GPU see "
            "docs/serving.md"
        )


def measure(load: Load, tick: Callable[[str], None]) -> dict[str, Any]:
    """Time all contenders; `tick` is told what begins."""
    from benchmarks.serving.checkpoint import save

    contenders: list[tuple[str, dict[str, Any] | None]] = [(NONE, None), (IDLE, None)]
    contenders += [
        (f"{method}, {keep}", {"method": method, "keep": keep})
        for method in load.methods
        for keep in load.keeps
    ]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        tick("a model")
        parameters = save(Path(folder))
        for name, pruning in contenders:
            tick(name)
            found[name] = _run(folder, pruning, load, plugin=name != NONE)
    entries = [entry for name, result in found.items() for entry in _entries(name, result)]
    return {"parameters": parameters, "entries": with_ratios(entries)}


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
    # vLLM's own settings; naming a plugin that there is not leaves all of them out
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
    """The last line that names us, else the last line: engines end with traces of their own."""
    lines = errors.strip().splitlines() or ["no message"]
    return next((line for line in reversed(lines) if "tokenprune:" in line), lines[-1]).strip()


def check_contenders(methods: Sequence[str], keeps: Sequence[int]) -> None:
    """Refuse what no engine would start with, before any is started.

    Raises
    ------
    TokenPruneError, BadInputError
        An unknown method, one that cannot cut inside vLLM, or a budget that leaves nothing to prune.
    """
    from tokenprune_vllm.settings import Settings

    from benchmarks.serving.checkpoint import N_TOKENS

    for method, keep in itertools.product(methods, keeps):
        Settings.of({"method": method, "keep": keep})
        if keep >= N_TOKENS:
            raise BadInputError(f"--keep {keep} prunes nothing: the pictures have {N_TOKENS} visual tokens")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _entries(name: str, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = []
    for run in result["runs"]:
        firsts = [round(value, 4) for value in run["first_token_seconds"]]
        entries.append(
            {
                "name": name,
                "concurrency": run["concurrency"],
                "prompt_tokens": result["prompt_tokens"],
                "requests_per_second": round(len(firsts) / run["seconds"], 4),
                "first_token_p50": percentile(firsts, 0.5),
                "first_token_p99": percentile(firsts, 0.99),
                "first_token_seconds": firsts,
            }
        )
    return entries


def with_ratios(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Entries with their throughput by that without the plugin, for as many clients; above 1 is faster."""
    base = {one["concurrency"]: one["requests_per_second"] for one in entries if one["name"] == NONE}
    return [
        {**one, "throughput_ratio": round(one["requests_per_second"] / base[one["concurrency"]], 3)}
        for one in entries
    ]
