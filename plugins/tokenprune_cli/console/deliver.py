# SPDX-License-Identifier: Apache-2.0
"""Print a record and write it to the file that the user names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import typer
from tokenprune_evaluation.files import write_text
from tokenprune_evaluation.records import dumps

Record = TypeVar("Record")


def deliver(
    record: Record, show: Callable[[Record], None], as_json: bool, output: Path | None, indent: int = 1
) -> None:
    """Print a record, as JSON or by `show`, and write it to a file, even if printing fails."""
    text = dumps(record, indent)
    try:
        if as_json:
            typer.echo(text)
        else:
            show(record)
    finally:
        if output is not None:
            write_text(output, text)
