# SPDX-License-Identifier: Apache-2.0
"""Blocks of docs/vision-towers.md: what `python -m benchmarks.towers` measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenprune_evaluation.downsample import NAME as DOWNSAMPLE
from tokenprune_evaluation.tables import Table

from benchmarks.towers.accuracy import ALWAYS, UNPRUNED

from .sources import Blocks, read_record, render

DIGITS_KEEP = 36  # the budget at which digits are shown
Entries = Mapping[tuple[str, int | None, int | None], Mapping[str, Any]]


def accuracy() -> str:
    """Tables of F1 by cut, setting and budget."""
    record = read_record("towers-accuracy")
    entries, layers, keeps = _entries(record), record["layers"], record["keeps"]
    cuts = {layer: (layer, DIGITS_KEEP) for layer in layers}
    return render(
        "towers-accuracy",
        record=record,
        unpruned={task: _f1(entries[UNPRUNED, None, None][task]) for task in ("pairs", "digits")},
        always=entries[ALWAYS, None, None],
        smaller=[f"{entries[DOWNSAMPLE, None, keep]['pairs']['f1']:.1f}" for keep in keeps],
        shares={layer: [f"{_share_of_rows(record, layer, keep):.0%}" for keep in keeps] for layer in layers},
        pairs={
            layer: _table(entries, "pairs", "patches kept", {keep: (layer, keep) for keep in keeps})
            for layer in layers
        },
        digits=_table(entries, "digits", "cut before block", cuts),
        digits_keep=DIGITS_KEEP,
    )


def speed() -> str:
    """A table of times for each timed tower."""
    record = read_record("towers-speed")
    return render(
        "towers-speed",
        towers=record,
        tables={name: _times(tower["entries"]) for name, tower in record.items()},
    )


def points_lost(keep: str, *settings: str) -> str:
    """Fewest and most points of F1 of colour-shape pairs that settings lose, over the cuts: "7 to 19"."""
    entries = _entries(read_record("towers-accuracy"))
    whole = entries[UNPRUNED, None, None]["pairs"]["f1"]
    lost = [
        whole - entry["pairs"]["f1"]
        for (name, layer, kept), entry in entries.items()
        if name in settings and layer is not None and kept == int(keep)
    ]
    return f"{min(lost):.0f} to {max(lost):.0f}"


def _entries(record: Mapping[str, Any]) -> Entries:
    return {(entry["setting"], entry["layer"], entry["keep"]): entry for entry in record["entries"]}


def _table(entries: Entries, task: str, head: str, columns: Mapping[int, tuple[int, int]]) -> str:
    """A row for each setting; a column, by its heading, is a cut and a budget."""
    names = dict.fromkeys(name for name, layer, _ in entries if layer is not None)
    rows = [
        [_code(name), *(_f1(entries[name, layer, keep][task]) for layer, keep in columns.values())]
        for name in names
    ]
    return Table([head, *map(str, columns)], rows, align="l" * (1 + len(columns))).markdown()


def _times(entries: list[dict[str, Any]]) -> str:
    rows = [
        [
            str(entry["batch"]),
            _code(entry["name"]),
            "{median:.3f} ({low:.3f} to {high:.3f})".format(**entry["seconds"]),
            f"{entry['vs_unpruned']:.2f}",
            f"{entry['flops_ratio']:.2f}",
            f"{entry['vs_oracle']:.2f}",
            "" if entry["choosing_seconds"] is None else f"{1e3 * entry['choosing_seconds']:.1f}",
        ]
        for entry in entries
    ]
    heads = ["batch", "", "seconds", "vs unpruned", "FLOPs allow", "vs oracle", "choosing, ms"]
    return Table(heads, rows, align="l" * len(heads)).markdown()


def _share_of_rows(record: Mapping[str, Any], layer: int, keep: int) -> float:
    """Rows that enter a block, class token and all, by the unpruned tower's; mean over blocks."""
    blocks, patches = record["blocks"], record["patches"]
    rows = layer * (1 + patches) + (blocks - layer) * (1 + keep)
    return float(rows / (blocks * (1 + patches)))


def _f1(figures: Mapping[str, float]) -> str:
    return "{f1:.1f} ({low:.1f}–{high:.1f})".format(**figures)


def _code(name: str) -> str:
    """Set the names of strategies as code: "received `attention` + `topk`"."""
    parts = (part.removeprefix("received ") for part in name.split(" + "))
    return ("received " if name.startswith("received ") else "") + " + ".join(f"`{part}`" for part in parts)


BLOCKS: Blocks = {"towers-accuracy": accuracy, "towers-speed": speed, "towers-points-lost": points_lost}
