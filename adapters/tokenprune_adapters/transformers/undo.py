# SPDX-License-Identifier: Apache-2.0
"""A stack of steps that undo an installation and can be resumed after an interrupt."""

from __future__ import annotations

from collections.abc import Callable


class UndoStack:
    """Idempotent functions that each undo one change."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], None]] = []

    def do(self, change: Callable[[], Callable[[], None]]) -> None:
        """Make a change, and push the function it returns, which undoes it."""
        self._steps.append(change())

    def run(self) -> None:
        """Undo all changes, last one first; steps are removed once done, so that a second run resumes."""
        while self._steps:
            self._steps[-1]()
            self._steps.pop()
