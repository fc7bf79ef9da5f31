# SPDX-License-Identifier: Apache-2.0
"""One run of a bare tower over a batch of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tokenprune import Cut, ImageReport, Layout, PruningReport, VisualTokens
from tokenprune.stack import image_of, stack
from tokenprune.towers.checks import PIXELS
from tokenprune.towers.group import TokenGroup
from tokenprune.towers.image import TowerImage
from tokenprune.towers.run import TowerRun

from .attention import QueryKeyTap
from .signals import tower_signals
from .tower import Tower


class PictureRun(TowerRun):
    """The state of one run of a tower over pictures (B, C, H, W) of one size.

    `taps` record the attention of the block before each cut.
    """

    def __init__(self, tower: Tower, cut: Cut, pictures: Tensor, taps: dict[int, QueryKeyTap]) -> None:
        super().__init__(cut, len(tower.blocks), tower.n_prefix, traces_prefix=True)
        self._tower, self._taps = tower, taps
        self._pictures = pictures.detach() if PIXELS in cut.method.needs else None
        self.grid = tower.grid(*pictures.shape[-2:])
        self.layout = Layout((1, *self.grid))
        self._found: list[Tensor] | None = None  # what the last cut found of each picture
        self._seen: tuple[int, VisualTokens] | None = None
        self._rope: tuple[Any, Any, Tensor] | None = None  # of which rows and survivors

    def images(self, shape: tuple[int, int]) -> Sequence[TowerImage]:
        """Each picture is a sequence, with a row for each patch."""
        rows = torch.arange(shape[0] * shape[1]).view(shape)[:, self._tower.n_prefix :, None]
        return [TowerImage(patches, self.layout) for patches in rows]

    def view(self, i: int, hidden: Tensor, group: TokenGroup) -> VisualTokens:
        """Return what strategies can read of a group at the cut before block `i`, a stack of B pictures."""
        if self._seen is None or self._seen[0] != i:
            is_first = self._seen is None
            self._found = None if is_first else [self.kept(n) for n in range(len(hidden))]
            self._seen = i, self._look(i, hidden, group.layout)
        seen = self._seen[1]
        if len(group.numbers) == len(hidden):
            return seen
        return stack([image_of(seen, number) for number in group.numbers])

    def _look(self, i: int, hidden: Tensor, layout: Layout) -> VisualTokens:
        """The tokens of all pictures, which are cut at the same blocks."""
        sizes = torch.stack([left.sizes for left in self._left])
        signals = tower_signals(self._tower, self._taps.get(i), hidden, self.cut.method.needs, sizes)
        if self._pictures is not None:
            assert self._tower.patch is not None  # otherwise the signal is not provided
            signals[PIXELS] = partial(patches_of, self._pictures, self.grid, self._tower.patch)
        return VisualTokens(hidden[:, self._tower.n_prefix :], signals, layout)

    def rope_of_kept(self, rope: Tensor) -> Tensor:
        """Gather rotary sines and cosines (N, d) or (H, N, d) of the kept rows, (B, 1 or H, K, d)."""
        if self._rope is None or self._rope[0] is not rope or self._rope[1] is not self.survivors:
            assert self.outcome is not None  # most towers give every block the same `rope`
            per_head = rope if rope.ndim > 2 else rope.unsqueeze(0)
            places = torch.stack(self.outcome.tokens)
            index = places[:, None, :, None].expand(-1, len(per_head), -1, rope.shape[-1])
            kept = per_head.expand(len(places), *per_head.shape).gather(2, index)
            self._rope = rope, self.survivors, kept
        return self._rope[2]

    def report(self, n_pictures: int, note: str = "") -> PruningReport:
        """Report what was kept of each picture."""
        n, cuts = len(self.layout), dict(self.plans[0]) if self.plans else {}
        seconds = 0.0 if self.outcome is None else self.outcome.seconds
        images = []
        for row in range(n_pictures):
            report = ImageReport(row, self.layout, n, n, note=note, number=row)
            if cuts:
                kept, selections = self.kept(row), self.selections[row]
                report = replace(
                    report,
                    n_after=len(kept),
                    kept=kept,
                    cuts={block: len(selection) for block, selection in selections.items()},
                    selection=selections[max(cuts)],
                    selections=selections,
                    found=None if self._found is None else self._found[row],
                    capped=None if self.outcome is None else self.outcome.capped.get(row),
                )
            images.append(report)
        return PruningReport(tuple(images), seconds_choosing=seconds)


def patches_of(pictures: Tensor, grid: tuple[int, int], patch: tuple[int, int]) -> Tensor:
    """Pixels of each patch of pictures (B, C, H, W), padded or cropped to the grid, (B, N, C * h * w)."""
    missing = [
        of_grid * side - has for of_grid, side, has in zip(grid, patch, pictures.shape[-2:], strict=True)
    ]
    whole = functional.pad(pictures, (0, missing[1], 0, missing[0]))
    return functional.unfold(whole.float(), patch, stride=patch).transpose(1, 2)
