# SPDX-License-Identifier: Apache-2.0
"""Select the tokens whose pixels their neighbours do not predict, as in PixelPrune (arXiv 2604.00886).

Wang et al. predict each token of a grid from the left or the upper one, as lossless image coders (LOCO-I) do
with pixels, and keep those for which the prediction fails. The pixels of the others follow from those kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune

from .diverse import DiverseSelector
from .topk import TopKSelector


@dataclass(frozen=True)
class DuplicatesSelector(tokenprune.Selector):
    """Drops tokens with the pixels of a neighbour, and keeps at most `keep` of the others.

    If more than `keep` are left, the selector `diverse` chooses among them by their pixels.

    Parameters
    ----------
    tolerance
        Largest difference of a pixel value up to which two tokens count as equal, in units of the signal
        `pixels`, which the model's processor has normalised. 0: equal bits.
    fill
        Return exactly `keep` tokens: add those with the highest scores, without scores evenly spaced ones.
    """

    name: ClassVar[str] = "duplicates"
    space: ClassVar[str | None] = "pixels"
    tolerance: float = 0.0
    fill: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < math.inf:
            raise tokenprune.OptionError(
                f"tolerance must be a finite number of at least 0, got {self.tolerance!r}"
            )

    @property
    def needs(self) -> frozenset[str]:
        """The pixels of each token."""
        return frozenset({"pixels"})

    @property
    def adaptive(self) -> bool:
        """Whether the number of tokens depends on the picture: unless `fill`."""
        return not self.fill

    def select(
        self, tokens: tokenprune.VisualTokens, scores: Tensor | None, keep: int
    ) -> tokenprune.Selection:
        """Return the tokens that are not predicted: at most `keep`, with `fill` exactly `keep`."""
        pixels = tokens.signal("pixels").detach().to(tokens.features.device)
        is_kept = not_predicted(pixels.view(*tokens.layout.grid, -1), self.tolerance).flatten()
        kept = is_kept.nonzero().squeeze(1)
        if len(kept) > keep:
            found = tokenprune.VisualTokens(pixels[kept])
            picks = DiverseSelector().select(found, None if scores is None else scores[kept], keep).order
            return tokenprune.Selection.from_order(kept[picks])
        if self.fill and len(kept) < keep:
            others = (~is_kept).nonzero().squeeze(1)
            rest, n_missing = tokens.part(others), keep - len(kept)
            picks = TopKSelector().select(rest, None if scores is None else scores[others], n_missing).order
            kept = torch.cat([kept, others[picks]])
        return tokenprune.Selection.from_order(kept)


def not_predicted(pixels: Tensor, tolerance: float = 0.0) -> Tensor:
    """Return which tokens of a grid differ from their prediction, (T, H, W, D) -> (T, H, W).

    The left token predicts, except where the corner above it equals the left but not the upper one (a
    vertical edge): there, and in the first column, the upper one does. The first token of each frame is never
    predicted.
    """
    return _not_equal(pixels) if tolerance == 0 else _not_close(pixels, tolerance)


def _not_equal(pixels: Tensor) -> Tensor:
    """Compare with the neighbours themselves, all at once: equality is transitive."""
    is_left = torch.zeros(pixels.shape[:3], dtype=torch.bool, device=pixels.device)
    is_upper = torch.zeros_like(is_left)
    is_left[:, :, 1:] = (pixels[:, :, 1:] == pixels[:, :, :-1]).all(-1)  # a token equals that on its left
    is_upper[:, 1:] = (pixels[:, 1:] == pixels[:, :-1]).all(-1)
    is_predicted = is_left.clone()
    is_predicted[:, 1:, 0] = is_upper[:, 1:, 0]
    by_upper = is_upper[:, 1:, :-1] & ~is_left[:, :-1, 1:]
    is_predicted[:, 1:, 1:] = torch.where(by_upper, is_upper[:, 1:, 1:], is_left[:, 1:, 1:])
    return ~is_predicted


def _not_close(pixels: Tensor, tolerance: float) -> Tensor:
    """Compare with the kept tokens that stand for the neighbours, so that differences do not add up.

    A token depends on three neighbours of the two diagonals before its own: each diagonal is one step.
    """
    frames, height, width, _ = pixels.shape
    rows = pixels.flatten(0, 2).float()
    slots = torch.arange(len(rows), device=pixels.device).view(frames, height, width)
    anchor = slots.clone()  # the kept token that stands for each token

    def is_close(first: Tensor, second: Tensor) -> Tensor:
        return (rows[first] - rows[second]).abs().amax(-1) <= tolerance

    for diagonal in range(1, height + width - 1):
        y = torch.arange(max(0, diagonal - width + 1), min(height, diagonal + 1), device=pixels.device)
        x = diagonal - y
        before, above = (x - 1).clamp(min=0), (y - 1).clamp(min=0)
        left, upper, corner = anchor[:, y, before], anchor[:, above, x], anchor[:, above, before]
        is_edge = is_close(corner, left) & ~is_close(corner, upper)
        predicted = torch.where((x == 0) | (is_edge & (y > 0)), upper, left)
        own = slots[:, y, x]
        anchor[:, y, x] = torch.where(is_close(own, predicted), predicted, own)
    return anchor == slots


@tokenprune.hookimpl
def tokenprune_selectors() -> list[type[tokenprune.Selector]]:
    """Return the selector class."""
    return [DuplicatesSelector]
