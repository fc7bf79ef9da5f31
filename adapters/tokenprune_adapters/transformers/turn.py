# SPDX-License-Identifier: Apache-2.0
"""One call at a time: what a pruned model remembers of a call must not be another thread's."""

from __future__ import annotations

import threading


class Turn:
    """Lets one thread in; calls of others wait until it is through. The same thread may come in again."""

    def __init__(self) -> None:
        self._lock, self._owner = threading.Lock(), 0

    def take(self) -> bool:
        """Wait for one's turn; False where one has it already."""
        me = threading.get_ident()
        if self._owner == me:
            return False
        self._lock.acquire()
        self._owner = me
        return True

    def give(self) -> None:
        """Let the next one in."""
        if self._owner == threading.get_ident():
            self._owner = 0
            self._lock.release()
