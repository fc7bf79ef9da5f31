# SPDX-License-Identifier: Apache-2.0
"""The command `tokenprune`, also as `python -m tokenprune_bench`."""

from __future__ import annotations

from tokenprune_bench.cli.app import app


def main() -> None:
    """Run the command line."""
    app(prog_name="tokenprune")


if __name__ == "__main__":
    main()
