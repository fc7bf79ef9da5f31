# SPDX-License-Identifier: Apache-2.0
"""What one pruned prefill did."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .selection import Selection
from .tokens import Layout


@dataclass(frozen=True)
class ImageReport:
    """One image of one call.

    `row` is the row of the batch it stands in; `selection` what was kept (None: the image was left alone);
    `n_before` and `n_after` count its rows in the language model.
    """

    row: int
    layout: Layout
    n_before: int
    n_after: int
    selection: Selection | None = None
    note: str = ""

    @property
    def kept(self) -> Tensor | None:
        """Slots that were kept, (K,) ascending; None when the image was left alone."""
        return None if self.selection is None else self.selection.indices

    @property
    def scores(self) -> Tensor | None:
        """Scores (N,) the choice was made on, None without an opinion."""
        return None if self.selection is None else self.selection.scores


@dataclass(frozen=True)
class PruningReport:
    """One prefill: what was kept of each image, bytes of the key-value cache, seconds spent choosing.

    `kv_bytes` is what the cache holds for this prefill's rows, `kv_bytes_unpruned` what it would hold without
    pruning; both are 0 where the model ran without a cache.
    """

    images: tuple[ImageReport, ...]
    kv_bytes: int = 0
    kv_bytes_unpruned: int = 0
    seconds_choosing: float = 0.0

    @property
    def n_before(self) -> int:
        """Visual tokens of all images before the cut."""
        return sum(image.n_before for image in self.images)

    @property
    def n_after(self) -> int:
        """Visual tokens of all images after the cut."""
        return sum(image.n_after for image in self.images)

    def __str__(self) -> str:
        return (
            f"{self.n_after} of {self.n_before} visual tokens kept in {len(self.images)} image(s), "
            f"key-value cache {self.kv_bytes} of {self.kv_bytes_unpruned} bytes, "
            f"chosen in {1e3 * self.seconds_choosing:.1f} ms"
        )
