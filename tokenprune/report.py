# SPDX-License-Identifier: Apache-2.0
"""Reports of what a pruned prefill kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .notebook import html_table
from .schedule import entering
from .selection import Selection
from .tokens import Layout

HEADS = ("image", "row", "grid", "tokens", "kept", "cuts")  # of the table in notebooks


@dataclass(frozen=True)
class ImageReport:
    """Report of one image of one call.

    `row` is the image's row of the batch. `n_before` and `n_after` count the image's rows in the language
    model; `cuts` maps decoder layers to the rows left from there on (0: before the language model). `kept`
    (K,) are the kept slots in the order of the rows, -1 for new rows; None if the image was left alone, for
    the reason in `note`. `selection` is that of the last cut, among the rows the cut before left: `found`
    (n,) are their slots in the image, -1 for new rows, or None for all slots. `selections` maps the layers
    of `cuts` to the selection of each cut.
    `tower_cuts` maps blocks of the vision tower to the tokens left from there on, if tokens were cut inside
    it, and `survivors` (n,) are the tokens that left it, None if nothing was cut there. The others are
    dropped before the language model, together with those that a method at the projector stage drops.
    `capped` says of a budget with a rule whether its limit `at_most` stopped the selector at a cut before the
    rule was met; None without a rule, or if the image was left alone.
    `number` counts the call's images (or videos, see `modality`) in the order they were encoded.
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
    tower_cuts: Mapping[int, int] = field(default_factory=dict)
    survivors: Tensor | None = None
    capped: bool | None = None

    def tokens_entering(self, n_blocks: int) -> list[int]:
        """Return the number of the image's tokens that enter each of the vision tower's blocks."""
        return entering(self.tower_cuts, self.n_before, n_blocks)

    def rows_entering(self, n_layers: int) -> list[int]:
        """Return the number of the image's rows that enter each of the model's decoder layers."""
        return entering(self.cuts, self.n_before, n_layers)

    @property
    def scores(self) -> Tensor | None:
        """Scores (n,) that the last cut is based on, or None if there are none."""
        return None if self.selection is None else self.selection.scores

    def _done(self) -> str:
        """Say where the image's tokens were cut, or why they were not."""
        if self.note:
            return f"left alone: {self.note}"
        cuts = [f"{n} from tower block {block} on" for block, n in self.tower_cuts.items()]
        cuts += [
            f"{n} from layer {layer} on" if layer else f"{n} before the language model"
            for layer, n in self.cuts.items()
        ]
        return ", ".join(cuts) + (", capped" if self.capped else "")

    def _cells(self) -> tuple[object, ...]:
        grid = " x ".join(map(str, self.layout.grid))
        return f"{self.modality} {self.number}", self.row, grid, self.n_before, self.n_after, self._done()

    def __repr__(self) -> str:
        kept = f"{self.n_after} of {self.n_before} tokens kept"
        note = f", left alone: {self.note}" if self.note else ""
        return f"<ImageReport {self.modality} {self.number} in row {self.row}: {kept}{note}>"

    def _repr_html_(self) -> str:
        return html_table("", HEADS, [self._cells()])


@dataclass(frozen=True)
class PruningReport:
    """Report of one prefill: what was kept of each image, and its cost.

    `kv_bytes` is the size of the key-value cache for this prefill, `kv_bytes_unpruned` its size without
    pruning; both are 0 without a cache. Sliding-window layers count at most their window. `kv_bytes_trimmed`
    is what was freed by trimming the layers before a cut (`Method.trim_early_cache`): `kv_bytes` does not
    include it, and is larger by it without trimming.
    `seconds_choosing` is the time spent on scoring and selecting. `towers` is what cuts inside the vision
    tower left of its rows, as the model's adapter records it for checks.
    """

    images: tuple[ImageReport, ...]
    kv_bytes: int = 0
    kv_bytes_unpruned: int = 0
    seconds_choosing: float = 0.0
    towers: tuple[Any, ...] = field(default=(), repr=False, compare=False)
    kv_bytes_trimmed: int = 0

    @property
    def n_before(self) -> int:
        """Visual tokens of all images before the cut."""
        return sum(image.n_before for image in self.images)

    @property
    def n_after(self) -> int:
        """Visual tokens of all images after the cut."""
        return sum(image.n_after for image in self.images)

    def __str__(self) -> str:
        n_capped = sum(bool(image.capped) for image in self.images)
        capped = f"{n_capped} of them capped by at_most, " if n_capped else ""
        trimmed = f" ({self.kv_bytes_trimmed} trimmed from early layers)" if self.kv_bytes_trimmed else ""
        return (
            f"{self.n_after} of {self.n_before} visual tokens kept in {len(self.images)} image(s), {capped}"
            f"key-value cache {self.kv_bytes} of {self.kv_bytes_unpruned} bytes{trimmed}, "
            f"chosen in {1e3 * self.seconds_choosing:.1f} ms"
        )

    def __repr__(self) -> str:
        return f"<PruningReport {self}>"

    def _repr_html_(self) -> str:
        return html_table(str(self), HEADS, [image._cells() for image in self.images])
