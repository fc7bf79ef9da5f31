# SPDX-License-Identifier: Apache-2.0
"""What a benchmark found, as JSON: every sample, medians, and ratios that can be computed again from them."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from statistics import median
from typing import Any

import torch

from tokenprune.functional import greedy_path
from tokenprune_cli.bench.contenders import DOWNSAMPLE, ORACLE, UNPRUNED
from tokenprune_cli.bench.measure import Timed
from tokenprune_cli.bench.oracle import Profile, rows_by_layer


def summary(samples: Sequence[float]) -> dict[str, Any]:
    """Median and spread of some seconds, and the seconds themselves."""
    rounded = [float(f"{value:.4g}") for value in samples]
    return {"median": median(rounded), "low": min(rounded), "high": max(rounded), "samples": rounded}


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


def runs_record(timed: Sequence[Timed], config: Any) -> list[dict[str, Any]]:
    """One entry for each contender at each batch size, with its ratios to the others."""
    entries = []
    for one in timed:
        entries.append(
            {
                "batch": one.batch,
                "name": one.contender.name,
                "keep": one.contender.keep,
                "visual_rows": [list(pair) for pair in one.found.profile],
                "seconds": {part: summary(values) for part, values in one.samples.items()},
                "kv_bytes": one.found.kv_bytes,
                "peak_memory_bytes": one.found.peak_memory_bytes,
                "flops_counted": one.found.flops_counted,
                "flops_formula": one.batch * formula_flops(config, one.found.profile),
            }
        )
    for entry in entries:
        entry["ratios"] = ratios(entry, entries)
    return entries


def ratios(entry: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Our time by the unpruned model's, smaller pictures' and our own oracle's; below 1 is faster."""
    found = {}
    for name in (UNPRUNED, DOWNSAMPLE, ORACLE):
        other = reference(entry, entries, name)
        if other is not None and other is not entry:
            mine, theirs = entry["seconds"], other["seconds"]
            found[name] = {
                part: ratio(mine[part]["samples"], theirs[part]["samples"])
                for part in mine
                if part in theirs and part not in ("tower", "choosing")
            }
    return found


def reference(
    entry: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], name: str
) -> Mapping[str, Any] | None:
    """What an entry is compared with: same batch size, and same budget or (oracle) same rows by layer."""
    for other in entries:
        if other["batch"] != entry["batch"] or other["name"] != name:
            continue
        if name == ORACLE:
            fits = entry["name"] not in (UNPRUNED, DOWNSAMPLE) and (
                other["visual_rows"] == entry["visual_rows"]
            )
        else:
            fits = name == UNPRUNED or (entry["keep"] == other["keep"] and entry["name"] != UNPRUNED)
        if fits:
            return other
    return None


def machine(device: torch.device) -> dict[str, Any]:
    """Kind of machine, and versions; nothing that names it."""
    kind: dict[str, Any] = {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }
    names = ("tokenprune-vlm", "torch", "transformers")
    versions = {"python": platform.python_version(), **{name: version(name) for name in names}}
    return {"machine": kind, "versions": versions}


def _processor() -> str | None:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        return None
    return names[0] if names else None


def picking(device: torch.device, n_visual: int) -> dict[str, str]:
    """Which loop picks diverse tokens here, and why."""
    path = greedy_path(device, n_visual)
    if path == "triton":
        return {"path": path, "why": "an NVIDIA GPU, and triton is installed"}
    if device.type != "cuda":
        return {"path": path, "why": "no NVIDIA GPU in use"}
    large = greedy_path(device, 1) == "triton"
    return {"path": path, "why": "too many tokens for the kernel" if large else "triton is not installed"}
