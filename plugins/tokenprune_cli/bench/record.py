# SPDX-License-Identifier: Apache-2.0
"""What a benchmark found: every sample, medians, and ratios that can be computed again from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch

from tokenprune.functional import greedy_path
from tokenprune_cli.bench.contenders import DOWNSAMPLE, ORACLE, UNPRUNED
from tokenprune_cli.bench.measure import Timed
from tokenprune_cli.bench.oracle import Profile, rows_by_layer
from tokenprune_cli.bench.presets import Amount
from tokenprune_cli.records import Provenance


@dataclass(frozen=True)
class Seconds:
    """Median and spread of some seconds, and the seconds themselves."""

    median: float
    low: float
    high: float
    samples: tuple[float, ...]

    @classmethod
    def of(cls, samples: Sequence[float]) -> Seconds:
        """Round samples to four digits and summarise them."""
        rounded = [float(f"{value:.4g}") for value in samples]
        return cls(median(rounded), min(rounded), max(rounded), tuple(rounded))


@dataclass(frozen=True)
class Run:
    """A contender at a batch size.

    `seconds` are by part of the run (`timing.time_prefill`). `ratios` divide them by those of the unpruned
    model, of smaller pictures and of the run's oracle, by name and part; below 1 is faster.
    """

    batch: int
    name: str
    keep: int | None
    visual_rows: Profile
    seconds: dict[str, Seconds]
    kv_bytes: int
    peak_memory_bytes: int | None
    flops_counted: int | None
    flops_formula: int
    ratios: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """The model that was measured, and the tokens of a row."""

    name: str
    about: str
    family: str
    random_weights: bool
    parameters: int
    dtype: str
    device: str
    visual_tokens: int
    text_tokens: int


@dataclass(frozen=True)
class BenchRecord(Provenance):
    """A benchmark; `skipped` maps contenders that this model cannot use to the reason."""

    model: Subject
    amount: Amount
    picking: dict[str, str]
    runs: tuple[Run, ...]
    skipped: dict[str, str]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over the rounds of our seconds by theirs in the same round."""
    return round(median(a / b for a, b in zip(ours, theirs, strict=True)), 4)


def formula_flops(config: Any, profile: Profile) -> int:
    """The paper's formula for one picture: 4 n d^2 + 2 n^2 d + 2 n d m in each layer, n visual rows.

    d is the width of the language model, m that of its feed-forward layers.
    """
    d, m = config.hidden_size, config.intermediate_size
    rows = rows_by_layer(profile, config.num_hidden_layers)
    return sum(4 * n * d * d + 2 * n * n * d + 2 * n * d * m for n in rows)


def runs(timed: Sequence[Timed], config: Any) -> tuple[Run, ...]:
    """Summarise each contender at each batch size, with its ratios to the others."""
    entries = [
        Run(
            batch=one.batch,
            name=one.contender.name,
            keep=one.contender.keep,
            visual_rows=one.found.profile,
            seconds={part: Seconds.of(values) for part, values in one.samples.items()},
            kv_bytes=one.found.kv_bytes,
            peak_memory_bytes=one.found.peak_memory_bytes,
            flops_counted=one.found.flops_counted,
            flops_formula=one.batch * formula_flops(config, one.found.profile),
        )
        for one in timed
    ]
    return tuple(replace(run, ratios=_ratios(run, entries)) for run in entries)


def _ratios(run: Run, runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    ratios = {}
    for name in (UNPRUNED, DOWNSAMPLE, ORACLE):
        other = next((other for other in runs if other.name == name and _comparable(run, other)), None)
        if other is not None and other is not run:
            ratios[name] = {
                part: ratio(seconds.samples, other.seconds[part].samples)
                for part, seconds in run.seconds.items()
                if part in other.seconds and part not in ("tower", "choosing")
            }
    return ratios


def _comparable(run: Run, other: Run) -> bool:
    """Whether batch sizes are equal, and budgets or (oracle) rows by layer."""
    if run.batch != other.batch:
        return False
    if other.name == ORACLE:
        return run.name not in (UNPRUNED, DOWNSAMPLE) and run.visual_rows == other.visual_rows
    return other.name == UNPRUNED or (run.keep == other.keep and run.name != UNPRUNED)


def picking(device: torch.device, n_visual: int) -> dict[str, str]:
    """Which loop picks diverse tokens here, and why."""
    path = greedy_path(device, n_visual)
    if path == "triton":
        return {"path": path, "why": "an NVIDIA GPU, and triton is installed"}
    if device.type != "cuda":
        return {"path": path, "why": "no NVIDIA GPU in use"}
    large = greedy_path(device, 1) == "triton"
    return {"path": path, "why": "too many tokens for the kernel" if large else "triton is not installed"}
