# SPDX-License-Identifier: Apache-2.0
"""Files and directories that commands write."""

from __future__ import annotations

import os
from pathlib import Path

from tokenprune_adapters.loading import first_line

from tokenprune_evaluation.errors import BadInputError


def check_folder(output: Path | None) -> None:
    """Raise an error if a file cannot be written, before any work is done."""
    if output is None:
        return
    if not os.path.isdir(output.parent):
        raise BadInputError(
            f"the directory '{output.parent}' does not exist, so '{output.name}' cannot be written there"
        )
    if os.path.isdir(output):
        raise BadInputError(f"'{output}' is a directory; give the path of a file")
    if not os.access(output if os.path.exists(output) else output.parent, os.W_OK):
        raise BadInputError(f"'{output}' cannot be written: permission denied")


def make_directory(folder: Path) -> None:
    """Make a directory for output, unless it exists; raise an error if it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise BadInputError(f"the directory '{folder}' cannot be made: {reason}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadInputError(f"the directory '{folder}' is not writable: permission denied")


def write_text(path: Path, text: str, end: str = "\n") -> None:
    """Write a string and an end of line; bytes of file names that are not UTF-8 are written as escapes."""
    try:
        path.write_text(text + end, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> BadInputError:
    """Return the error for a file that could not be written."""
    return BadInputError(f"'{path}' cannot be written: {error.strerror or first_line(error)}")
