# SPDX-License-Identifier: Apache-2.0
"""Records of benchmarks: all samples, and medians and ratios that are computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch
from tokenprune_evaluation.records import Provenance

from tokenprune.functional import greedy_path
from tokenprune_cli.bench.contenders import DOWNSAMPLE, ORACLE, TOWER_ORACLE, UNPRUNED
from tokenprune_cli.bench.oracle import Profile, rows_by_layer
from tokenprune_cli.bench.presets import Amount


@dataclass(frozen=True)
class Seconds:
    """Samples in seconds with their median, lowest and highest."""

    median: float
    low: float
    high: float
    samples: tuple[float, ...]

    @classmethod
    def of(cls, samples: Sequence[float]) -> Seconds:
        """Round samples to four digits and summarize them."""
        rounded = [float(f"{value:.4g}") for value in samples]
        return cls(median(rounded), min(rounded), max(rounded), tuple(rounded))


@dataclass(frozen=True)
class Run:
    """A contender at a batch size.

    `seconds` are by part of the run; see `timing.Prefill`. `ratios` are the seconds divided by those of the
    unpruned model, of smaller images and of the run's oracle, by name and part; below 1 is faster. A run that
    cuts inside the vision tower has two oracles, one of which runs the tower on all tokens. `tower_rows` are
    the tokens left from blocks of the tower on. `flops` are the operations of the tower, with the projector,
    and of the language model by exact formulas, without the selection.
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
    tower_rows: Profile = ()
    flops: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """The model that was measured, and the number of tokens in a row."""

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
    """A benchmark; `skipped` gives the reasons for contenders that the model does not support."""

    model: Subject
    amount: Amount
    picking: dict[str, str]
    runs: tuple[Run, ...]
    skipped: dict[str, str]


def ratio(seconds: Sequence[float], others: Sequence[float]) -> float:
    """Return the median over the rounds of seconds divided by the others' in the same round."""
    return round(median(a / b for a, b in zip(seconds, others, strict=True)), 4)


def formula_flops(config: Any, profile: Profile) -> int:
    """Return the FLOPs of an image by the paper's formula: 4 n d^2 + 2 n^2 d + 2 n d m in each layer.

    n is the number of visual rows, d the width of the language model, m that of its feed-forward layers.
    """
    d, m = config.hidden_size, config.intermediate_size
    rows = rows_by_layer(profile, config.num_hidden_layers)
    return sum(4 * n * d * d + 2 * n * n * d + 2 * n * d * m for n in rows)


def with_ratios(runs: Sequence[Run]) -> list[Run]:
    """Return the runs at a batch size with their ratios to each other."""
    return [replace(run, ratios=_ratios(run, runs)) for run in runs]


def _ratios(run: Run, runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    ratios = {}
    for name in (UNPRUNED, DOWNSAMPLE, ORACLE, TOWER_ORACLE):
        other = next((other for other in runs if other.name == name and _comparable(run, other)), None)
        if other is not None and other is not run:
            ratios[name] = {
                part: ratio(seconds.samples, other.seconds[part].samples)
                for part, seconds in run.seconds.items()
                if part in other.seconds and part not in ("tower", "choosing")
            }
    return ratios


def _comparable(run: Run, other: Run) -> bool:
    """Return whether a run is compared with another: with an oracle by its rows, else by its budget."""
    if other.name in (ORACLE, TOWER_ORACLE):
        same_rows = run.visual_rows == other.visual_rows
        same_tower = other.name == ORACLE or run.tower_rows == other.tower_rows
        return run.name not in (UNPRUNED, DOWNSAMPLE) and same_rows and same_tower
    return other.name == UNPRUNED or (run.keep == other.keep and run.name != UNPRUNED)


def picking(device: torch.device, n_visual: int) -> dict[str, str]:
    """Return which implementation selects diverse tokens on this machine, and why."""
    path = greedy_path(device, n_visual)
    if path == "triton":
        return {"path": path, "why": "an NVIDIA GPU, and triton is installed"}
    if device.type != "cuda":
        return {"path": path, "why": "no NVIDIA GPU in use"}
    large = greedy_path(device, 1) == "triton"
    return {"path": path, "why": "too many tokens for the kernel" if large else "triton is not installed"}
