# SPDX-License-Identifier: Apache-2.0
"""How far long work has come."""

from __future__ import annotations

from typing import Any


class ProgressBar:
    """A progress bar on stderr, where that is a terminal; called with what is done and how much of it."""

    def __enter__(self) -> ProgressBar:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._bar = Progress(console=console, disable=not console.is_terminal)
        self._bar.start()
        self._tasks: dict[str, Any] = {}
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say how much of some work is done, and of how much."""
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total)
        self._bar.update(self._tasks[what], completed=done)
