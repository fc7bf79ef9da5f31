# SPDX-License-Identifier: Apache-2.0
"""How long-running functions report progress."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # the current step, the number of finished items, and the total


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""
