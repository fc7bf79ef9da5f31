# SPDX-License-Identifier: Apache-2.0
"""Steps that take an installation back, last one first; interrupted, they can be run again."""

from __future__ import annotations

from collections.abc import Callable


class UndoStack:
    """Functions that each undo one change, and may be called twice."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], None]] = []

    def do(self, change: Callable[[], Callable[[], None]]) -> None:
        """Make a change, and remember the function it returns, which undoes it."""
        self._steps.append(change())

    def run(self) -> None:
        """Undo everything. A step is forgotten once it is done, so that a second run goes on from there."""
        while self._steps:
            self._steps[-1]()
            self._steps.pop()
