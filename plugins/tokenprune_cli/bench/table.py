# SPDX-License-Identifier: Apache-2.0
"""A benchmark's record as tables."""

from __future__ import annotations

from collections.abc import Callable

from tokenprune_cli.bench.record import BenchRecord, Run
from tokenprune_cli.tables import Table

FIRST = 2  # columns that stand in every table: batch and what ran
GAINS = ("prefill ms", "vs unpruned", "vs downsample", "vs oracle", "without tower")


def label(run: Run) -> str:
    """Name, budget, and where inside the language model it cuts."""
    if run.keep is None:
        return run.name
    inside = [layer for layer, _ in run.visual_rows if layer]
    cuts = f" @{','.join(map(str, inside))}" if inside else ""
    return f"{run.name}, {run.keep}{cuts}"


def full_table(record: BenchRecord) -> Table:
    """Every column, a row for each run and a section for each batch size."""
    columns = _columns(record)
    batches = [run.batch for run in record.runs]
    return Table(
        list(columns),
        [[cell(run) for cell in columns.values()] for run in record.runs],
        align="rl" + "r" * (len(columns) - FIRST),
        sections={i for i in range(1, len(batches)) if batches[i] != batches[i - 1]},
    )


def terminal_tables(record: BenchRecord) -> list[Table]:
    """For terminals of 80 columns: what pruning gains, then what it is made of."""
    whole = full_table(record)
    gains = [i for i, head in enumerate(whole.heads) if i >= FIRST and head in GAINS]
    parts = [i for i in range(FIRST, len(whole.heads)) if i not in gains]
    return [_part(whole, [*range(FIRST), *columns]) for columns in (gains, parts)]


def _part(table: Table, columns: list[int]) -> Table:
    """Some columns, their headings a word a line."""
    return Table(
        [table.heads[i].replace(" ", "\n") for i in columns],
        [[row[i] for i in columns] for row in table.rows],
        align="rl" + "r" * (len(columns) - FIRST),
        sections=table.sections,
    )


def _columns(record: BenchRecord) -> dict[str, Callable[[Run], str]]:
    """Headings, and what makes the cells below them."""

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

    lengths = record.amount.new_tokens
    return {
        "batch": lambda run: str(run.batch),
        "what": label,
        "tower ms": milliseconds("tower"),
        "choosing ms": milliseconds("choosing"),
        "prefill ms": _prefill,
        "vs unpruned": faster_than("unpruned"),
        "vs downsample": faster_than("downsample"),
        "vs oracle": over_oracle("prefill"),
        "without tower": over_oracle("language"),
        "ms a token": milliseconds("decode_token"),
        **{f"{n} token{'s' if n > 1 else ''} s": answer(n) for n in lengths},
        "KV MB": lambda run: f"{run.kv_bytes / 1e6:.1f}",
        "peak MB": peak,
        "GFLOP": lambda run: f"{(run.flops_counted or 0) / 1e9:.1f}",
    }


def _prefill(run: Run) -> str:
    seconds = run.seconds["prefill"]
    spread = (seconds.high - seconds.low) / 2 / seconds.median
    return f"{1e3 * seconds.median:.1f} ± {100 * spread:.0f} %"


EXPLANATION = (
    "prefill: from pixels to the first token's logits, median ± half the spread. vs unpruned, vs downsample: "
    "times faster than the model as it is, and than smaller pictures at the same budget. vs oracle: prefill "
    "time by that of the same model fed only what is kept (1 is the best there can be), and the same without "
    "the tower. @N: cut before decoder layer N, not before the language model. choosing lies within "
    "the prefill. KV, peak, GFLOP: of the whole batch."
)
