# SPDX-License-Identifier: Apache-2.0
"""One run of a vision tower: plan its cuts, choose tokens at each, and gather the rows that are left."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokenprune import BoundaryTrace, Cut, Layout, RowTrace, UnsupportedCallError, VisualTokens
from tokenprune.batch import select_all
from tokenprune.image_plan import plan_image
from tokenprune.precision import without_autocast
from tokenprune.selection import sizes_after

from ..encoded import Encoding
from ..plan import take
from .gather import ShortArguments
from .parts import TowerParts
from .signals import PIXELS, Looked, TokensInTower
from .survivors import Outcome, Survivors

if TYPE_CHECKING:
    from ..facts import VisionLanguageFacts


class Run:
    """The state of one run of the tower over the images of an encoding.

    `plans` maps, for each image, blocks to the tokens to keep before them. `arguments` shortens those of
    blocks; None as long as no row was dropped. `looked` is the attention of the block before each cut.
    """

    def __init__(self, adapter: VisionLanguageFacts, parts: TowerParts, cut: Cut, encoding: Encoding) -> None:
        self._adapter, self._parts, self._cut, self.encoding = adapter, parts, cut, encoding
        self.pixels: Tensor | None = None
        self.outcome: Outcome | None = None
        self.arguments: ShortArguments | None = None
        self.looked: dict[int, Looked] = {}
        self.plans: list[dict[int, int]] = []
        self._shape = (0, 0)  # (B, M) of all rows
        self._sizes: list[Tensor] = []  # for each image, how many tokens each of its tokens stands for, (N,)

    def cut_before(self, i: int, hidden: Tensor, traces: bool) -> Tensor:
        """Choose tokens before block `i`, and drop the rows of the others: (B, M, D) -> (B, K, D)."""
        start = time.perf_counter()
        outcome = self._plan(hidden) if self.outcome is None else self.outcome
        n_before = [len(tokens) for tokens in outcome.tokens]
        numbers = [number for number, plan in enumerate(self.plans) if i in plan]
        if numbers:
            hidden = self._cut_images(i, numbers, outcome, hidden)
        if traces:
            outcome.boundaries.append(_boundary(i, n_before, outcome.tokens))
        outcome.seconds += time.perf_counter() - start
        return hidden

    def _plan(self, hidden: Tensor) -> Outcome:
        """Find the images among the tower's rows, and plan how many tokens to keep of each."""
        self._shape = (hidden.shape[0], hidden.shape[1])
        images = self._adapter.tower_images(self.encoding.arguments, self._shape)
        notes: dict[int, str] = {}
        for number, image in enumerate(images):
            budget = self._cut.budget.of_share(1 / image.full_tiles)
            if image.shown is not None and budget.keep is None and not self._parts.tiled:
                raise UnsupportedCallError(
                    "keep_ratio= asks for unequal numbers of tokens of these pictures, which the vision "
                    "tower runs as one batch, of equal lengths; give keep=, or pictures of one size"
                )
            cut = dataclasses.replace(self._cut, budget=budget)
            plan = plan_image(cut, len(image.rows), self._parts.n_projected)
            self.plans.append(dict(plan.cuts))
            if plan.left_alone is not None:
                notes[number] = plan.left_alone.note(cut)
        images = [dataclasses.replace(image, rows=image.rows.to(hidden.device)) for image in images]
        tokens = [torch.arange(len(image.rows), device=hidden.device) for image in images]
        self._sizes = [torch.ones(len(image.rows), device=hidden.device) for image in images]
        keeps_newlines = self._cut.method.newlines == "keep"
        self.outcome = Outcome(
            images, tokens, [{} for _ in images], notes=notes, keeps_newlines=keeps_newlines
        )
        return self.outcome

    def _cut_images(self, i: int, numbers: list[int], outcome: Outcome, hidden: Tensor) -> Tensor:
        """Run the method on the images that are cut before block `i`, and gather the rows that are left."""
        before = outcome.survivors
        candidates = [outcome.candidates(number) for number in numbers]
        views, images, keeps = [], [], []
        with torch.no_grad(), without_autocast(hidden.device):
            for number, tokens in zip(numbers, candidates, strict=True):
                whole = outcome.images[number]
                view = self._view(i, number, tokens, outcome, hidden.detach(), before)
                layout = whole.layout if len(tokens) == len(whole.rows) else Layout((1, 1, len(tokens)))
                views.append(view)
                images.append(VisualTokens(view.features(), view.signals(), layout))
                keeps.append(min(self.plans[number][i], len(tokens)))
            selections = select_all(self._cut.method, images, keeps, layer=i)
        hidden = hidden.clone() if any(selection.features is not None for selection in selections) else hidden
        for number, tokens, view, selection in zip(numbers, candidates, views, selections, strict=True):
            kept, merged_into = tokens[selection.indices], None
            if selection.features is not None:  # rows that dropped ones were merged into
                places, merged_into = view.places[selection.indices], selection.merged_into
                hidden[view.sequence, places] = selection.features.to(hidden.dtype).view(*places.shape, -1)
                rows = outcome.images[number].rows[kept]
                outcome.merged.setdefault(i, []).append((rows, selection.features))
            sizes = self._sizes[number]
            sizes[kept] = sizes_after(selection.indices, merged_into, sizes[tokens])
            outcome.left[number][i] = len(kept)
            outcome.tokens[number] = outcome.filled_up(number, kept, self.plans[number][i])
        survivors = self._survivors(outcome)
        outcome.states.append(survivors)
        outcome.blocks.append(i)
        self.arguments = ShortArguments(survivors)
        return take(hidden, survivors.places_in(before))

    def _view(
        self, i: int, number: int, tokens: Tensor, outcome: Outcome, hidden: Tensor, before: Survivors | None
    ) -> TokensInTower:
        """What strategies can read of an image's tokens (n,)."""
        n_rows = self._shape[1]
        rows = outcome.images[number].rows[tokens]
        sequence = int(outcome.images[number].rows[0, 0]) // n_rows
        places = rows - sequence * n_rows
        if before is not None:
            places = (before.keep[sequence].cumsum(0) - 1)[places]
        pixels = None
        if PIXELS in self._cut.method.needs:
            assert self.pixels is not None
            pixels = self._adapter.pixels_of(self.pixels, outcome.images[number].rows)[tokens]
        looked = self.looked.get(i)
        if looked is not None and looked.borders is None and self._parts.packed:
            looked.borders = outcome.borders
        return TokensInTower(
            self._parts, hidden, sequence, places, looked, pixels, self._sizes[number][tokens]
        )

    def _survivors(self, outcome: Outcome) -> Survivors:
        """The rows of the tokens that are left."""
        parts, images = self._parts, outcome.images
        keep = torch.ones(self._shape, dtype=torch.bool, device=outcome.tokens[0].device)
        flat = keep.view(-1)
        for image, tokens in zip(images, outcome.tokens, strict=True):
            flat[image.rows.flatten()] = False
            flat[image.rows[tokens].flatten()] = True
        starts = [parts.n_prefix, self._shape[1]]
        if parts.packed:
            starts = [0]
            for image in images:
                starts.append(starts[-1] + image.rows.numel())
        return Survivors(keep, tuple(starts), images[0].rows.shape[1], parts.n_prefix, parts.packed)


def _boundary(block: int, n_before: list[int], tokens: list[Tensor]) -> BoundaryTrace:
    """Trace the boundary before a block, with an entry for each image of the tower."""
    rows = [
        RowTrace(n_in, len(kept), (int(kept[0]),), (int(kept[-1]),))
        for n_in, kept in zip(n_before, tokens, strict=True)
    ]
    return BoundaryTrace("vision", block, tuple(rows), "original")
