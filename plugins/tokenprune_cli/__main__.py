# SPDX-License-Identifier: Apache-2.0
"""The command `tokenprune`, also as `python -m tokenprune_cli`."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys

from tokenprune_cli.app import app
from tokenprune_cli.console.failures import BAD_INPUT


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # where a terminal knows no such letter: a question mark
    try:
        try:
            app(prog_name="tokenprune")
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if error.filename is not None or error.errno == errno.EPIPE:
            raise  # no output: a bug; or nobody reads any more
        _end_of_output(error)


def _end_of_output(error: OSError) -> None:
    """Say that printing failed; what is still buffered goes nowhere, or Python would try it once more."""
    with contextlib.suppress(OSError, ValueError):
        print(f"tokenprune: the output cannot be written: {error.strerror or error}", file=sys.stderr)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
