# SPDX-License-Identifier: Apache-2.0
"""A lock that serialises the calls of a pruned model, whose hooks share the state of one call."""

from __future__ import annotations

import sys
import threading
from types import FrameType

PATIENCE = 0.05  # seconds between checks whether the owner is still in its call


class Turn:
    """A reentrant lock that is owned by a stack frame of a thread.

    The frame is that of the function that acquired the lock, or of one of its callers. If the frame ends
    without releasing the lock, another thread can acquire it: torch runs no hook after a KeyboardInterrupt in
    a forward. The frame of such a call, with its callers' local variables, is kept until the next call or
    `remove`.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._owner = 0
        self._frame: FrameType | None = None  # itself: the id of a frame that ended is soon another's

    def take(self, file: str | None = None) -> bool:
        """Acquire the lock; False if this thread already holds it.

        Parameters
        ----------
        file
            The owning frame is the nearest caller whose code is in this file; None for the direct caller.
        """
        thread, frame = threading.get_ident(), _frame(sys._getframe(1), file)
        with self._changed:
            if self._owner == thread and self.held():
                return False
            while self._owner not in (0, thread) and self.held():
                self._changed.wait(PATIENCE)
            self._owner, self._frame = thread, frame
            return True

    def give(self) -> None:
        """Release the lock, if this thread holds it."""
        with self._changed:
            if self._owner == threading.get_ident():
                self._owner, self._frame = 0, None
                self._changed.notify()

    def held(self) -> bool:
        """Whether the owning thread still runs the owning frame."""
        frame = sys._current_frames().get(self._owner)
        while frame is not None:
            if frame is self._frame:
                return True
            frame = frame.f_back
        return False


def _frame(frame: FrameType, file: str | None) -> FrameType:
    caller: FrameType | None = frame
    while caller is not None and file is not None and caller.f_code.co_filename != file:
        caller = caller.f_back
    return frame if caller is None else caller
