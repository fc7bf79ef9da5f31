# SPDX-License-Identifier: Apache-2.0
"""Show a benchmark's record as tables."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from tokenprune_evaluation.tables import Table

from tokenprune_cli.bench.contenders import TOWER_ORACLE
from tokenprune_cli.bench.record import BenchRecord, Run

FIRST = 2  # columns of every table: the batch size and the contender
GAINS = ("prefill ms", "vs unpruned", "vs downsample", "vs oracle", "without tower", "vs tower oracle")
COSTS = ("KV MB", "peak MB", "GFLOP", "tower GFLOP", "language GFLOP")
WIDTH, GAP = 80, 2  # of terminals, and between columns
EXPLANATION = (
    "prefill: from pixels to the first token's logits, median ± half the spread. vs unpruned, vs downsample: "
    "times faster than the unpruned model, and than smaller images at the same budget. vs oracle: prefill "
    "time divided by that of the same model given only the kept rows (1 is optimal); without tower: the same "
    "without the vision tower. @N: cut before decoder layer N instead of before the language model. choosing "
    "is part of the prefill. KV, peak and GFLOP are those of the whole batch."
)
TOWER_EXPLANATION = (
    "tower METHOD, K @N: cut to K tokens before block N of the vision tower. vs tower oracle: prefill time "
    "divided by that of the same model whose tower gets only the kept rows from block N on, so 1 is optimal; "
    "vs oracle is below 1, as that oracle's tower gets all rows. tower GFLOP, language GFLOP: operations by "
    "formula, without choosing."
)


def show(record: BenchRecord) -> None:
    """Print the tables, what their columns mean, and what was left out."""
    console = Console(highlight=False, markup=False)
    for table in terminal_tables(record):
        console.print(table.rich())
        console.print()
    console.print(EXPLANATION)
    if any(run.tower_rows for run in record.runs):
        console.print(TOWER_EXPLANATION)
    console.print(f"diverse tokens were selected by {record.picking['path']}: {record.picking['why']}")
    for name, reason in record.skipped.items():
        console.print(f"left out: {name}: {reason}")


def label(run: Run) -> str:
    """Write the name and budget of a run, and the blocks or decoder layers before which it cuts."""
    if run.keep is None:
        return run.name
    if run.tower_rows:
        stages = [f"{keep} @{block}" for block, keep in run.tower_rows]
        return ", ".join([run.name, *stages, *([str(run.keep)] if run.keep < run.tower_rows[-1][1] else [])])
    inside = [layer for layer, _ in run.visual_rows if layer]
    cuts = f" @{','.join(map(str, inside))}" if inside else ""
    return f"{run.name}, {run.keep}{cuts}"


def full_table(record: BenchRecord) -> Table:
    """Lay out all columns, with a row for each run and a section for each batch size."""
    columns = _columns(record)
    batches = [run.batch for run in record.runs]
    return Table(
        list(columns),
        [[cell(run) for cell in columns.values()] for run in record.runs],
        align="rl" + "r" * (len(columns) - FIRST),
        sections={i for i in range(1, len(batches)) if batches[i] != batches[i - 1]},
    )


def terminal_tables(record: BenchRecord) -> list[Table]:
    """Lay out tables for terminals of 80 columns: what pruning gains, where the time goes, and the rest."""
    table = full_table(record)
    gains = [i for i, head in enumerate(table.heads) if head in GAINS]
    costs = [i for i, head in enumerate(table.heads) if head in COSTS]
    times = [i for i in range(FIRST, len(table.heads)) if i not in (*gains, *costs)]
    return [
        _part(table, [*range(FIRST), *columns])
        for group in (gains, times, costs)
        for columns in _that_fit(table, group)
    ]


def _that_fit(table: Table, columns: list[int]) -> list[list[int]]:
    """Split columns into as few groups as fit a terminal beside the first ones."""

    def width(i: int) -> int:
        return GAP + max(map(len, [*table.heads[i].split(), *(row[i] for row in table.rows)]))

    groups: list[list[int]] = []
    free = 0
    for i in columns:
        if not groups or width(i) > free:
            groups.append([])
            free = WIDTH - sum(map(width, range(FIRST)))
        groups[-1].append(i)
        free -= width(i)
    return groups


def _part(table: Table, columns: list[int]) -> Table:
    """Return some columns of a table, with each word of their headings on a line of its own."""
    return Table(
        [table.heads[i].replace(" ", "\n") for i in columns],
        [[row[i] for i in columns] for row in table.rows],
        align="rl" + "r" * (len(columns) - FIRST),
        sections=table.sections,
    )


def _columns(record: BenchRecord) -> dict[str, Callable[[Run], str]]:
    """Return the headings, and the functions that write the cells below them."""

    def faster_than(name: str) -> Callable[[Run], str]:
        return lambda run: f"{1 / run.ratios[name]['prefill']:.2f}x" if name in run.ratios else ""

    def over_oracle(part: str) -> Callable[[Run], str]:
        return lambda run: f"{run.ratios['oracle'][part]:.3f}" if "oracle" in run.ratios else ""

    def milliseconds(part: str) -> Callable[[Run], str]:
        return lambda run: f"{1e3 * run.seconds[part].median:.1f}"

    def answer(n: int) -> Callable[[Run], str]:
        return lambda run: f"{run.seconds[f'end_to_end_{n}'].median:.2f}"

    def peak(run: Run) -> str:
        return "" if run.peak_memory_bytes is None else f"{run.peak_memory_bytes / 1e6:.0f}"

    def over_tower_oracle(run: Run) -> str:
        return f"{run.ratios[TOWER_ORACLE]['prefill']:.3f}" if TOWER_ORACLE in run.ratios else ""

    def billions(part: str) -> Callable[[Run], str]:
        return lambda run: f"{run.flops[part] / 1e9:.1f}" if part in run.flops else ""

    lengths = record.amount.new_tokens
    cuts_towers = any(run.tower_rows for run in record.runs)
    parts = dict.fromkeys(part for run in record.runs for part in run.flops)
    return {
        "batch": lambda run: str(run.batch),
        "contender": label,
        "tower ms": milliseconds("tower"),
        "choosing ms": milliseconds("choosing"),
        "prefill ms": _prefill,
        "vs unpruned": faster_than("unpruned"),
        "vs downsample": faster_than("downsample"),
        "vs oracle": over_oracle("prefill"),
        "without tower": over_oracle("language"),
        **({"vs tower oracle": over_tower_oracle} if cuts_towers else {}),
        "ms per token": milliseconds("decode_token"),
        **{f"{n} token{'s' if n > 1 else ''} s": answer(n) for n in lengths},
        "KV MB": lambda run: f"{run.kv_bytes / 1e6:.1f}",
        "peak MB": peak,
        "GFLOP": lambda run: f"{(run.flops_counted or 0) / 1e9:.1f}",
        **{f"{part} GFLOP": billions(part) for part in parts},
    }


def _prefill(run: Run) -> str:
    seconds = run.seconds["prefill"]
    spread = (seconds.high - seconds.low) / 2 / seconds.median
    return f"{1e3 * seconds.median:.1f} ± {100 * spread:.0f} %"
