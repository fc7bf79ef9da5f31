# SPDX-License-Identifier: Apache-2.0
"""Block of README.md: what pruning saves, from the records of `tokenprune bench`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenprune_evaluation.records import Provenance
from tokenprune_evaluation.tables import Table

from .sources import Blocks, listed, read_record

# record, batch size, and the place of the pruned run among those of the batch with its name
SHOWN = (
    ("cpu-small", 8, "zoo-exact", 0, 'method="zoo-exact", keep=64'),
    ("cpu-tower", 8, "tower divprune", 0, 'method="divprune", stage="vision", layer=4, keep=64'),
    ("cpu-tower-qwen", 1, "divprune", 0, 'method="divprune", keep=133'),
)
HEADS = ("model", "tokens", "batch", "call", "first token, s", "faster", "KV cache, MB", "GFLOP")


def saved() -> str:
    """A row for each of the runs in `SHOWN`, and how they were measured."""
    records = {name: read_record(name) for name, *_ in SHOWN}
    rows = [_row(records[name], batch, run, place, call) for name, batch, run, place, call in SHOWN]
    return f"{Table(HEADS, rows, align='lrrlrrrr').markdown()}\n\n{_how(records)}"


def _row(record: Mapping[str, Any], batch: int, name: str, place: int, call: str) -> list[str]:
    runs = [run for run in record["runs"] if run["batch"] == batch]
    pruned = [run for run in runs if run["name"] == name][place]
    (whole,) = [run for run in runs if run["name"] == "unpruned"]
    return [
        record["model"]["about"].split(",")[0],
        f"{record['model']['visual_tokens']} → {pruned['keep']}",
        str(batch),
        f"`{call}`",
        f"{whole['seconds']['prefill']['median']:.1f} → {pruned['seconds']['prefill']['median']:.1f}",
        f"{1 / pruned['ratios']['unpruned']['prefill']:.1f}x",
        f"{whole['kv_bytes'] / 1e6:.0f} → {pruned['kv_bytes'] / 1e6:.0f}",
        f"{whole['flops_counted'] / 1e9:.0f} → {pruned['flops_counted'] / 1e9:.0f}",
    ]


def _how(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Say where the rows were measured, and name the records."""
    commands = listed(f"`tokenprune bench --preset {name}`" for name in records)
    setups = listed(dict.fromkeys(Provenance.of(record).setup for record in records.values()))
    return f"Rows measured with {commands}, on {setups}."


BLOCKS: Blocks = {"saved": saved}
