# SPDX-License-Identifier: Apache-2.0
"""Show the record of servers as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from tokenprune_evaluation.tables import Table

from tokenprune_serving.record import Ends, Run, ServingRecord

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
ENDS = " ({}-{})"
CAPTION = (
    "ratio: throughput divided by that without the plugin, and, for cuts inside the tower, by that of the "
    "same method after it; median over {rounds}{interval}. p50, p99: of the seconds until a request's first "
    "token"
)


def show(record: ServingRecord) -> None:
    """Print the table, what cuts inside the tower gain, and what the columns mean."""
    console = Console(highlight=False, markup=False)
    console.print(table(record, SHORT).rich())
    for sentence in tower_sentences(record):
        console.print(sentence)
    console.print(caption(record))


def table(record: ServingRecord, heads: Sequence[str] = COLUMNS) -> Table:
    """Return a row for each contender at each number of clients; the headings `SHORT` fit a terminal."""
    rows = [
        [
            run.name,
            str(run.concurrency),
            str(run.prompt_tokens),
            f"{run.requests_per_second:.2f}",
            f"{run.throughput_ratio:.2f}x{ends(run.throughput_interval, ENDS)}",
            f"{run.first_token_p50:.2f}",
            f"{run.first_token_p99:.2f}",
        ]
        for run in record.runs
    ]
    return Table(heads, rows, align="l" * len(heads))


def tower_sentences(record: ServingRecord) -> list[str]:
    """Compare each cut inside the tower with the same method after it, a line for each."""
    names = record.load.comparisons()
    return [_tower_sentence(run, names[run.name]) for run in record.runs if run.tower_ratio is not None]


def _tower_sentence(run: Run, other: str) -> str:
    clients = f"{run.concurrency} client{'s' if run.concurrency > 1 else ''}"
    return f"{run.name}, {clients}: {run.tower_ratio:.2f}x{ends(run.tower_interval, ENDS)} vs {other}"


def ends(interval: Ends | None, template: str) -> str:
    """Write the ends of an interval into a template; nothing if they are not known."""
    return "" if interval is None else template.format(*(f"{end:.2f}" for end in interval))


def caption(record: ServingRecord) -> str:
    """Say what the columns of the short table mean."""
    n = record.load.rounds
    has_interval = any(run.throughput_interval for run in record.runs)
    return CAPTION.format(
        rounds=f"{n} round{'s' if n > 1 else ''}", interval=" (95 % interval)" if has_interval else ""
    )
