# SPDX-License-Identifier: Apache-2.0
"""A benchmark's record as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich import box
from rich.table import Table

HEADINGS = ("batch", "what", "tower ms", "choosing ms", "prefill ms", "vs unpruned", "vs downsample")


def columns(record: Mapping[str, Any]) -> list[str]:
    """Headings of the table."""
    lengths = record["amount"]["new_tokens"]
    answers = [f"{n} token{'s' if n > 1 else ''} s" for n in lengths]
    return [*HEADINGS, "vs oracle", "without tower", "ms a token", *answers, "KV MB", "peak MB", "GFLOP"]


def rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table, a line for each run."""
    return [_row(run, record["amount"]["new_tokens"]) for run in record["runs"]]


def label(run: Mapping[str, Any]) -> str:
    """Name, budget, and where inside the language model it cuts."""
    if run["keep"] is None:
        return str(run["name"])
    inside = [layer for layer, _ in run["visual_rows"] if layer]
    cuts = f" @{','.join(map(str, inside))}" if inside else ""
    return f"{run['name']}, {run['keep']}{cuts}"


def _row(run: Mapping[str, Any], lengths: Sequence[int]) -> list[str]:
    seconds, ratios = run["seconds"], run["ratios"]

    def faster(name: str) -> str:
        return f"{1 / ratios[name]['prefill']:.2f}x" if name in ratios else ""

    def overhead(part: str) -> str:
        return f"{ratios['oracle'][part]:.3f}" if "oracle" in ratios else ""

    prefill = seconds["prefill"]
    spread = (prefill["high"] - prefill["low"]) / 2 / prefill["median"]
    peak = run["peak_memory_bytes"]
    return [
        str(run["batch"]),
        label(run),
        f"{1e3 * seconds['tower']['median']:.1f}",
        f"{1e3 * seconds['choosing']['median']:.1f}",
        f"{1e3 * prefill['median']:.1f} ± {100 * spread:.0f} %",
        faster("unpruned"),
        faster("downsample"),
        overhead("prefill"),
        overhead("language"),
        f"{1e3 * seconds['decode_token']['median']:.1f}",
        *(f"{seconds[f'end_to_end_{n}']['median']:.2f}" for n in lengths),
        f"{run['kv_bytes'] / 1e6:.1f}",
        "" if peak is None else f"{peak / 1e6:.0f}",
        f"{run['flops_counted'] / 1e9:.1f}",
    ]


def terminal_tables(record: Mapping[str, Any]) -> list[Table]:
    """For terminals of 80 columns: what pruning gains, then what it is made of."""
    heads = columns(record)
    gains = ["prefill ms", "vs unpruned", "vs downsample", "vs oracle", "without tower"]
    return [_part(record, gains), _part(record, [h for h in heads[2:] if h not in gains])]


def _part(record: Mapping[str, Any], wanted: Sequence[str]) -> Table:
    """Some columns, beside batch and name."""
    heads = columns(record)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for i, heading in enumerate(heads):
        if i < 2 or heading in wanted:
            side: Literal["left", "right"] = "left" if i == 1 else "right"
            table.add_column(heading.replace(" ", "\n"), justify=side, no_wrap=True)
    previous = None
    for run, cells in zip(record["runs"], rows(record), strict=True):
        if previous not in (None, run["batch"]):
            table.add_section()
        previous = run["batch"]
        table.add_row(*(cell for i, cell in enumerate(cells) if i < 2 or heads[i] in wanted))
    return table


def markdown_table(record: Mapping[str, Any]) -> str:
    """For the documentation."""
    heads = columns(record)
    lines = [heads, ["---:" if i != 1 else "---" for i in range(len(heads))], *rows(record)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


EXPLANATION = (
    "prefill: from pixels to the first token's logits, median ± half the spread. vs unpruned, vs downsample: "
    "times faster than the model as it is, and than smaller pictures at the same budget. vs oracle: prefill "
    "time by that of the same model fed only what is kept (1 is the best there can be), and the same without "
    "the tower. @N: cut before decoder layer N, not before the language model. choosing lies within "
    "the prefill. KV, peak, GFLOP: of the whole batch."
)
