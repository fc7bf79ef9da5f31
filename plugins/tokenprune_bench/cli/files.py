# SPDX-License-Identifier: Apache-2.0
"""Files that commands write."""

from __future__ import annotations

from pathlib import Path

from tokenprune_bench.cli.failures import BadInputError, first_line


def check_folder(output: Path | None) -> None:
    """Refuse a file whose directory does not exist, before any work."""
    if output is not None and not output.parent.is_dir():
        raise BadInputError(f"the directory '{output.parent}' does not exist")


def write_text(path: Path, text: str) -> None:
    """Write a text and a newline."""
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"'{path}' cannot be written: {first_line(error)}") from None
