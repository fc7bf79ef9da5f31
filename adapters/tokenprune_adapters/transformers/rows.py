# SPDX-License-Identifier: Apache-2.0
"""Collect the selections of a call over its images: which rows of the batch are kept, in which order."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tokenprune import Cut, ImageReport, Layout, Selection
from tokenprune.image_plan import ImagePlan, LeftAlone
from tokenprune.selection import fill_new_rows

from .images import ImageSpan
from .packing import counted_anew
from .plan import RowPlan


@dataclass
class Image:
    """The state of one image across the cuts of a call.

    `slots` (n,): the prompt's slots of its current rows, in row order. `entered` (n,): the slots of these
    rows in the decoder's input, once they entered it. `origin` (n,): the index of the image's token that each
    row comes from, -1 for new rows; `found`: the same before the last cut. `began`, `text` and `last`: the
    slots of all its rows, of the text after it and of the prompt's last token in the decoder's input.
    `schedule`: the number of rows to keep before decoder layers. `tower_cuts`: the number of tokens left
    from each block of the vision tower on, `survivors` (n,): those that left it. `capped`: whether the limit
    of a rule stopped a cut.
    """

    span: ImageSpan
    layout: Layout
    slots: Tensor
    origin: Tensor
    selection: Selection | None = None
    found: Tensor | None = None
    cuts: dict[int, int] = field(default_factory=dict)
    selections: dict[int, Selection] = field(default_factory=dict)
    note: str = ""
    left_alone: LeftAlone | None = None
    entered: Tensor | None = None
    began: Tensor | None = None
    text: Tensor | None = None
    last: Tensor | None = None
    schedule: dict[int, int] = field(default_factory=dict)
    tower_cuts: dict[int, int] = field(default_factory=dict)
    survivors: Tensor | None = None
    capped: bool | None = None

    def plan(self, cut: Cut, plan: ImagePlan) -> None:
        """Record whether, and why, a cut leaves this image alone."""
        self.left_alone = plan.left_alone
        if plan.left_alone is not None:
            self.note = plan.left_alone.note(cut)

    def report(self) -> ImageReport:
        """Report the selections made for this image."""
        return ImageReport(
            row=self.span.row,
            layout=self.layout,
            n_before=len(self.span.slots),
            n_after=len(self.slots),
            selection=self.selection,
            kept=None if self.selection is None else self.origin,
            cuts=dict(self.cuts),
            note=self.note,
            found=self.found,
            number=self.span.number,
            modality=self.span.modality,
            selections=dict(self.selections),
            tower_cuts=dict(self.tower_cuts),
            survivors=self.survivors,
            capped=self.capped,
        )


class RowChoice:
    """The kept tokens of a batch of B rows of L tokens; images are pruned one by one, text is kept.

    Parameters
    ----------
    shape
        (B, L).
    real
        (B, L) False for padding; None if there is none.
    """

    def __init__(self, shape: torch.Size, real: Tensor | None, device: torch.device) -> None:
        self.keep = torch.ones(shape, dtype=torch.bool, device=device)
        if real is not None:
            self.keep &= real.to(device)
        self.real = None if real is None else real.to(device)
        self._place = torch.arange(shape[1], device=device).repeat(shape[0], 1)
        self.has_cut = False
        self._new: list[tuple[int, Tensor, Tensor]] = []

    def cut(self, image: Image, places: Tensor, selection: Selection, layer: int) -> Tensor:
        """Apply an image's selection; return the slots of its kept rows, (K,).

        Parameters
        ----------
        places
            (n,) the slots of the image's rows in this batch.
        layer
            The boundary, for the report.
        """
        indices = selection.indices
        if selection.features is not None:  # otherwise no row is new, and no synchronisation is needed
            indices = fill_new_rows(indices, len(places))
        kept, row = places[indices], image.span.row
        self.keep[row, places] = False
        self.keep[row, kept] = True if self.real is None else self.real[row, kept]
        self._place[row, kept] = kept.sort().values
        if selection.features is not None:
            self._new.append((row, kept, selection.features))
        image.found = image.origin
        image.origin = torch.where(selection.indices < 0, -1, image.origin[indices])
        image.slots, image.selection = image.slots[indices], selection
        if selection.capped is not None:
            image.capped = selection.capped or bool(image.capped)
        image.cuts[layer], image.selections[layer] = len(kept), selection
        self.has_cut = True
        return kept

    def write_new_rows(self, rows: Tensor, slot: Tensor | None = None) -> Tensor:
        """Write new rows into `rows` (B, P, D); `slot` (B, L) maps tokens to slots of `rows`."""
        if self._new:
            rows = rows.clone()
        for row, slots, features in self._new:
            targets = slots if slot is None else slot[row, slots]
            rows[row, targets] = features.to(rows.dtype)
        self._new = []
        return rows

    def plan(self) -> RowPlan:
        """Make the plan of all cuts so far, over the initial tokens."""
        return RowPlan.make(self.keep, self._place)

    def gone(self, restarts: Tensor | None) -> Tensor:
        """Number of dropped tokens at or before each token, excluding padding, (B, L).

        The count restarts where `restarts` (1 or B, L) marks the start of another sequence.
        """
        dropped = ~self.keep if self.real is None else ~self.keep & self.real
        return counted_anew(dropped.cumsum(1), restarts)
