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
            stream.reconfigure(errors="replace")  # a question mark for unsupported characters
    try:
        try:
            app(prog_name="tokenprune")
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if error.filename is not None or error.errno == errno.EPIPE:
            raise  # not about the output, so a bug; or the reader of the output has stopped
        _exit_without_output(error)


def _exit_without_output(error: OSError) -> None:
    """Report that printing failed and exit; discard the buffer, which Python would otherwise try to write."""
    with contextlib.suppress(OSError, ValueError):
        print(f"tokenprune: the output cannot be written: {error.strerror or error}", file=sys.stderr)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
