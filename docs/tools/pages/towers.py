# SPDX-License-Identifier: Apache-2.0
"""The measured parts of docs/vision-towers.md, written from the records in docs/benchmarks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenprune_cli.evaluation.downsample import NAME as DOWNSAMPLE

from benchmarks.towers.__main__ import RECORDS
from benchmarks.towers.accuracy import ALWAYS, UNPRUNED
from pages.readme import filled

PAGE = Path("docs/vision-towers.md")
_DIGITS_KEEP = 36  # the budget at which digits are shown
Figures = Mapping[tuple[str, int | None, int | None], Mapping[str, Any]]


def accuracy_part(record: Mapping[str, Any]) -> str:
    """Write tables of F1 by cut, setting and budget."""
    found: Figures = {(e["setting"], e["layer"], e["keep"]): e for e in record["entries"]}
    unpruned, always = found[UNPRUNED, None, None], found[ALWAYS, None, None]
    smaller = (f"{found[DOWNSAMPLE, None, keep]['pairs']['f1']:.1f}" for keep in record["keeps"])
    lines = [
        f"{record['held_out_scenes']} held-out scenes; F1 in percent with its 95 % interval (scenes drawn "
        f"anew, 2000 times). Unpruned, with all {record['patches']} patches: colour-shape pairs "
        f"{_cell(unpruned['pairs'])}, digits {_cell(unpruned['digits'])}. To say that everything is there "
        f"scores {always['pairs']['f1']:.1f} and {always['digits']['f1']:.1f}. Smaller pictures with at most "
        f"{_listed(record['keeps'])} patches, through all blocks: pairs {_listed(smaller)}.",
    ]
    for layer in record["layers"]:
        shares = (_share_of_rows(record, layer, keep) for keep in record["keeps"])
        lines += [
            "",
            f"Colour-shape pairs, cut before block {layer} (of 0 ... {record['blocks'] - 1}; a block then "
            f"gets {_listed(f'{share:.0%}' for share in shares)} of the rows, on average):",
            "",
            *_results(found, "pairs", "patches kept", {keep: (layer, keep) for keep in record["keeps"]}),
        ]
    cuts = {layer: (layer, _DIGITS_KEEP) for layer in record["layers"]}
    lines += [
        "",
        f"Digits on signs, {_DIGITS_KEEP} patches kept:",
        "",
        *_results(found, "digits", "cut before block", cuts),
        "",
        _provenance(record, RECORDS["accuracy"]),
    ]
    return "\n".join(lines)


def speed_part(record: Mapping[str, Any]) -> str:
    """Write a table of times for each timed tower."""
    lines = []
    for name, subject in record.items():
        rows = (
            [
                str(entry["batch"]),
                _name(entry["name"]),
                "{median:.3f} ({low:.3f} to {high:.3f})".format(**entry["seconds"]),
                f"{entry['vs_unpruned']:.2f}",
                f"{entry['flops_ratio']:.2f}",
                f"{entry['vs_oracle']:.2f}",
                "" if entry["choosing_seconds"] is None else f"{1e3 * entry['choosing_seconds']:.1f}",
            ]
            for entry in subject["entries"]
        )
        heads = ["batch", "", "seconds", "vs unpruned", "FLOPs allow", "vs oracle", "choosing, ms"]
        lines += [
            f"**{name}**, {subject['keep']} of {subject['patches']} patches from block {subject['layer']} "
            "on:",
            "",
            *_table(heads, rows),
            "",
            _provenance(subject, RECORDS["speed"]),
            "",
        ]
    return "\n".join(lines)


def _results(found: Figures, task: str, head: str, columns: Mapping[int, tuple[int, int]]) -> list[str]:
    """A line for each setting; a column, by its heading, is a cut and a budget."""
    names = dict.fromkeys(name for name, layer, _ in found if layer is not None)
    rows = (
        [_name(name), *(_cell(found[name, at[0], at[1]][task]) for at in columns.values())] for name in names
    )
    return _table([head, *map(str, columns)], rows)


def _share_of_rows(record: Mapping[str, Any], layer: int, keep: int) -> float:
    """Rows that enter a block, class token and all, by the unpruned tower's; mean over blocks."""
    blocks, patches = record["blocks"], record["patches"]
    rows = layer * (1 + patches) + (blocks - layer) * (1 + keep)
    return float(rows / (blocks * (1 + patches)))


def _cell(figures: Mapping[str, float]) -> str:
    return "{f1:.1f} ({low:.1f}–{high:.1f})".format(**figures)


def _name(name: str) -> str:
    parts = (part.removeprefix("received ") for part in name.split(" + "))
    return ("received " if name.startswith("received ") else "") + " + ".join(f"`{part}`" for part in parts)


def _listed(values: Iterable[Any]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def _provenance(record: Mapping[str, Any], file: Path) -> str:
    machine, versions = record["machine"], record["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"Measured with `{record['command']}` on {machine['threads']} of {machine['cores']} cores "
        f"({machine['processor'] or 'an unnamed processor'}, {machine['architecture']}, "
        f"{machine['system']}); {packages}. All figures lie in `{file}`."
    )


def page(text: str, records: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with its measured parts as the records have them."""
    writers = {"accuracy": accuracy_part, "speed": speed_part}
    return filled(
        text,
        {
            name: write(records[name]) if name in records else "Not measured yet."
            for name, write in writers.items()
        },
    )


def read_records(root: Path) -> dict[str, Any]:
    """Read the records that a checkout has."""
    files = {name: root / file for name, file in RECORDS.items()}
    return {
        name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()
    }
