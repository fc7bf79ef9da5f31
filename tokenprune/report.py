# SPDX-License-Identifier: Apache-2.0
"""What one pruned prefill did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from .selection import Selection
from .tokens import Layout


@dataclass(frozen=True)
class ImageReport:
    """One image of one call.

    `row` is the row of the batch it stands in; `n_before` and `n_after` count its rows in the language model,
    `cuts` says how many are left from which decoder layer on (0: before the language model). `kept` (K,) are
    the image's own slots that stayed, in the order of the rows, -1 for rows that were made; None where the
    image was left alone, and `note` says why. `selection` is the last cut's, over what it found: `found` (n,)
    are the image's own slots of these rows, -1 for rows made by a cut before; None: all its slots.
    `selections` has the selection of each cut, by the same layers as `cuts`.
    `number` counts the call's images (or videos, as `modality` says) in the order they were encoded.
    """

    row: int
    layout: Layout
    n_before: int
    n_after: int
    selection: Selection | None = None
    kept: Tensor | None = None
    cuts: Mapping[int, int] = field(default_factory=dict)
    note: str = ""
    found: Tensor | None = None
    number: int = 0
    modality: str = "image"
    selections: Mapping[int, Selection] = field(default_factory=dict)

    def rows_entering(self, n_layers: int) -> list[int]:
        """Rows of the image that enter each of the model's decoder layers."""
        rows, entering = [], self.n_before
        for layer in range(n_layers):
            entering = self.cuts.get(layer, entering)
            rows.append(entering)
        return rows

    @property
    def scores(self) -> Tensor | None:
        """Scores (n,) the last cut was made on, None without an opinion."""
        return None if self.selection is None else self.selection.scores


@dataclass(frozen=True)
class PruningReport:
    """One prefill: what was kept of each image, bytes of the key-value cache, seconds spent choosing.

    `kv_bytes` is what the cache holds for this prefill's rows, `kv_bytes_unpruned` what it would hold without
    pruning; both are 0 where the model ran without a cache. A layer that sees only a window holds no more.
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
