# SPDX-License-Identifier: Apache-2.0
"""Progress on stderr: a bar in a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

SECONDS = 10.0  # between two lines of a task, at least


class ProgressBar:
    """A progress bar on stderr if that is a terminal, else a plain line every few seconds; see `Lines`.

    Parameters
    ----------
    clock
        Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock

    def __enter__(self) -> ProgressBar:
        from rich.console import Console

        console = Console(stderr=True)
        self._shown: Bar | Lines = Bar(console) if console.is_terminal else Lines(self._clock)
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show how much of a task is done, and how much there is."""
        self._shown(what, done, total)


class Bar:
    """A bar for each task, in a terminal."""

    def __init__(self, console: Console) -> None:
        from rich.progress import Progress

        self._bar = Progress(console=console)
        self._bar.start()
        self._tasks: dict[str, Any] = {}

    def stop(self) -> None:
        """Leave the bars as they are."""
        self._bar.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Update the bar of a task."""
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total)
        self._bar.update(self._tasks[what], completed=done)


class Lines:
    """A line at the start and at the end of each task, and between them at most one every `SECONDS`.

    It has the seconds since the task's first line: `answering: 40 of 120, 21 s`.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started: dict[str, float] = {}
        self._printed: dict[str, tuple[float, int]] = {}  # when the last line of a task was, and its `done`

    def stop(self) -> None:
        """Do nothing: lines stay."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Print a line if one is due."""
        now = self._clock()
        started = self._started.setdefault(what, now)
        last = self._printed.get(what)
        if last is not None:
            is_end = done >= total and last[1] < total
            if not is_end and (done == last[1] or now - last[0] < SECONDS):
                return
        self._printed[what] = now, done
        after = "" if last is None else f", {now - started:.0f} s"
        typer.echo(f"{what}: {done} of {total}{after}", err=True)
