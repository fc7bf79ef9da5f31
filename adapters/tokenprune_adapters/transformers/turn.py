# SPDX-License-Identifier: Apache-2.0
"""One call at a time: what a pruned model remembers of a call must not be another thread's."""

from __future__ import annotations

import sys
import threading
from types import FrameType

PATIENCE = 0.05  # seconds between two looks at whether the thread that is waited for is still in its call


class Turn:
    """Lets one thread in; calls of others wait until it is through. The same thread may come in again.

    A turn belongs to a frame, the one of the function that took it or a caller of that. When that frame is
    gone without the turn being given back, the next thread gets it: torch runs no hook after a
    KeyboardInterrupt in a forward.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._owner = 0
        self._frame: FrameType | None = None  # itself: the id of a frame that ended is soon another's

    def take(self, file: str | None = None) -> bool:
        """Wait for one's turn; False where one has it already.

        Parameters
        ----------
        file
            The turn lasts as long as the nearest caller whose code is in this file; None: the caller itself.
        """
        me, frame = threading.get_ident(), _frame(sys._getframe(1), file)
        with self._changed:
            if self._owner == me and self.held():
                return False
            while self._owner not in (0, me) and self.held():
                self._changed.wait(PATIENCE)
            self._owner, self._frame = me, frame
            return True

    def give(self) -> None:
        """Let the next one in."""
        with self._changed:
            if self._owner == threading.get_ident():
                self._owner, self._frame = 0, None
                self._changed.notify()

    def held(self) -> bool:
        """Whether the thread whose turn it is still runs the frame the turn belongs to."""
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
