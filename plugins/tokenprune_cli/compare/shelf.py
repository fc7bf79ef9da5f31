# SPDX-License-Identifier: Apache-2.0
"""A few pictures at hand, the others where they came from."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from PIL import Image

HELD_BYTES = 2**26  # of pixels; a batch of ordinary photographs
BYTES_A_PIXEL = 3


class Shelf:
    """Opens picture i, and holds those that were asked for last, up to so many bytes of pixels.

    Parameters
    ----------
    opened
        Opens a picture, which is then RGB.
    held_bytes
        The most that is held; a picture larger than that is opened whenever it is asked for.
    """

    def __init__(self, opened: Callable[[int], Image.Image], held_bytes: int | None = None) -> None:
        self._opened, self._held = opened, OrderedDict[int, Image.Image]()
        self._limit = HELD_BYTES if held_bytes is None else held_bytes

    def __call__(self, i: int) -> Image.Image:
        """Return picture i."""
        if i not in self._held:
            self._held[i] = self._opened(i)
        self._held.move_to_end(i)
        picture = self._held[i]
        while self._held and self.held_bytes > self._limit:
            self._held.popitem(last=False)
        return picture

    @property
    def held_bytes(self) -> int:
        """Bytes of pixels that are held."""
        return sum(BYTES_A_PIXEL * picture.width * picture.height for picture in self._held.values())
