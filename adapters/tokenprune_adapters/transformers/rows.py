# SPDX-License-Identifier: Apache-2.0
"""The choices of a call, gathered over its images: which rows of the batch stay, in which order."""

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
    """One image on its way through the cuts of a call.

    `slots` (n,): which of the prompt's tokens its rows stand for, in row order. `entered` (n,): where these
    rows stood among those that entered the decoder, once they did. `origin` (n,): the image's own token each
    row comes from, -1 for rows that were made; `found`: the same before the last cut. `began`, `text` and
    `last`: where all its rows, the text after it and the prompt's last token stood when they entered the
    decoder. `schedule`: rows it is cut to before decoder layers.
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

    def plan(self, cut: Cut, plan: ImagePlan) -> None:
        """Remember whether a cut leaves this image alone, and why."""
        self.left_alone = plan.left_alone
        if plan.left_alone is not None:
            self.note = plan.left_alone.note(cut)

    def report(self) -> ImageReport:
        """What became of it."""
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
        )


class RowChoice:
    """Rows of a batch that stay, B rows of L tokens each; images are cut one by one, text stays.

    Parameters
    ----------
    shape
        (B, L).
    real
        (B, L) which tokens are no padding; None: all.
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
        """Drop what an image's selection leaves out; return where the rows that stay stand, (K,).

        Parameters
        ----------
        places
            (n,) where the image's rows stand among the L tokens of this batch.
        layer
            The boundary, for the report.
        """
        chosen = selection.indices
        if selection.features is not None:  # else no row is new, and the device need not be asked
            chosen = fill_new_rows(chosen, len(places))
        stay, row = places[chosen], image.span.row
        self.keep[row, places] = False
        self.keep[row, stay] = True
        self._place[row, stay] = stay.sort().values
        if selection.features is not None:
            self._new.append((row, stay, selection.features))
        image.found = image.origin
        image.origin = torch.where(selection.indices < 0, -1, image.origin[chosen])
        image.slots, image.selection = image.slots[chosen], selection
        image.cuts[layer], image.selections[layer] = len(stay), selection
        self.has_cut = True
        return stay

    def write_new_rows(self, rows: Tensor, slot: Tensor | None = None) -> Tensor:
        """Put new rows' contents into `rows` (B, P, D); `slot` (B, L) says where each token stands there."""
        if self._new:
            rows = rows.clone()
        for row, slots, features in self._new:
            at = slots if slot is None else slot[row, slots]
            rows[row, at] = features.to(rows.dtype)
        self._new = []
        return rows

    def plan(self) -> RowPlan:
        """Plan of all cuts so far, from the tokens this began with."""
        return RowPlan.make(self.keep, self._place)

    def gone(self, restarts: Tensor | None) -> Tensor:
        """Dropped tokens at or before each token, padding not counted, (B, L).

        Counted anew where `restarts` (1 or B, L): there another sequence begins.
        """
        dropped = ~self.keep if self.real is None else ~self.keep & self.real
        return counted_anew(dropped.cumsum(1), restarts)
