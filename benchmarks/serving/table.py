# SPDX-License-Identifier: Apache-2.0
"""A record of `tokenprune bench benchmarks.serving` as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table, a line for each contender at each number of clients."""
    return [
        [
            run["name"],
            str(run["concurrency"]),
            str(run["prompt_tokens"]),
            f"{run['requests_per_second']:.2f}",
            f"{run['throughput_ratio']:.2f}x",
            f"{run['first_token_p50']:.2f}",
            f"{run['first_token_p99']:.2f}",
        ]
        for run in record["runs"]
    ]


def terminal_table(record: Mapping[str, Any]) -> Any:
    """Table for a terminal of 80 columns."""
    from rich.table import Table

    table = Table(*SHORT, caption="p50, p99: of the seconds until a request's first token")
    for row in rows(record):
        table.add_row(*row)
    return table


def markdown_table(record: Mapping[str, Any]) -> str:
    """Table for the documentation."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows(record)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
