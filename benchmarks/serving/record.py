# SPDX-License-Identifier: Apache-2.0
"""Record of the requests to a server and their timing, and its table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokenprune_evaluation.records import Provenance
from tokenprune_evaluation.tables import Table

NONE, IDLE = "no plugin", "plugin, idle"
COLUMNS = (
    "what",
    "clients",
    "prompt tokens",
    "requests/s",
    "vs no plugin",
    "first token p50 s",
    "first token p99 s",
)
SHORT = ("what", "clients", "prompt", "req/s", "ratio", "p50", "p99")
CAPTION = "p50, p99: of the seconds until a request's first token"


@dataclass(frozen=True)
class Load:
    """Requests to each engine: `requests` at each of `concurrency` clients, which wait for their answers.

    Each method and budget is also measured with the cut before each block of the vision tower in
    `tower_layers`.
    """

    methods: tuple[str, ...] = ("zoo-exact",)
    keeps: tuple[int, ...] = (64,)
    concurrency: tuple[int, ...] = (1, 8, 32)
    requests: tuple[int, ...] = (6, 16, 32)
    new_tokens: int = 1
    text_tokens: int = 32
    seed: int = 0
    tower_layers: tuple[int, ...] = ()

    def contenders(self) -> dict[str, dict[str, Any]]:
        """Return the pruning configuration of each contender, by its name."""
        pairs = [(method, keep) for method in self.methods for keep in self.keeps]
        after = {f"{method}, {keep}": {"method": method, "keep": keep} for method, keep in pairs}
        inside = {
            f"tower {method}, {keep} @{layer}": {
                "method": method,
                "keep": keep,
                "stage": "vision",
                "layer": layer,
            }
            for method, keep in pairs
            for layer in self.tower_layers
        }
        return after | inside


@dataclass(frozen=True)
class Run:
    """A contender at a number of clients; `throughput_ratio` is relative to the server without the plugin."""

    name: str
    concurrency: int
    prompt_tokens: int
    requests_per_second: float
    first_token_p50: float
    first_token_p99: float
    first_token_seconds: tuple[float, ...]
    throughput_ratio: float = math.nan


@dataclass(frozen=True)
class Served:
    """The served model."""

    about: str
    parameters: int


@dataclass(frozen=True)
class ServingRecord(Provenance):
    """Results of every contender at every number of clients."""

    engine: str
    model: Served
    load: Load
    runs: tuple[Run, ...]


def with_ratios(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Divide each throughput by that without the plugin at the same number of clients; above 1 is faster."""
    base = {run.concurrency: run.requests_per_second for run in runs if run.name == NONE}
    return tuple(
        replace(run, throughput_ratio=round(run.requests_per_second / base[run.concurrency], 3))
        for run in runs
    )


def table(record: ServingRecord, heads: Sequence[str] = COLUMNS) -> Table:
    """Return a row for each contender at each number of clients; the headings `SHORT` fit a terminal."""
    rows = [
        [
            run.name,
            str(run.concurrency),
            str(run.prompt_tokens),
            f"{run.requests_per_second:.2f}",
            f"{run.throughput_ratio:.2f}x",
            f"{run.first_token_p50:.2f}",
            f"{run.first_token_p99:.2f}",
        ]
        for run in record.runs
    ]
    return Table(heads, rows, align="l" * len(heads))
