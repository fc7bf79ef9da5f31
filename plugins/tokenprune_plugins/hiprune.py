# SPDX-License-Identifier: Apache-2.0
"""HiPrune: anchors of a middle block of the tower with their neighbours, the rest by deep attention.

Liu et al., arXiv 2508.00553. Anchors receive most attention in a middle block, buffers surround them, and
registers are the other tokens that receive most attention in the block whose output is projected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune
from tokenprune.functional import top_slots

from .attention import AttentionScorer

# relative depth of the block of the anchors in the official code, among blocks up to the projected one
LLAVA, QWEN = 8 / 23, 15 / 32
PER_ANCHOR = 5  # an anchor and its four buffers


@dataclass(frozen=True)
class HiPruneSelector(tokenprune.Selector):
    """Selects anchors and their neighbours by a block of the tower, then the highest scores.

    Parameters
    ----------
    alpha
        Share of the budget for anchors and buffers, in [0, 1]: there are round(keep alpha / 5) anchors.
    shallow
        The block of the tower whose attention makes anchors, from 0; None for that at `shallow_at`.
    shallow_at
        Relative depth of that block, in [0, 1): block round(shallow_at * depth), at most the last.
    inside
        Whether buffers stay inside the grid. In the official code the neighbour of a row's last token is the
        next row's first, and above the first row and below the last there are the image's first and last
        token.
    official
        Whether to choose registers as the official Qwen2.5-VL code does, which may pick anchors and buffers
        again; fewer tokens are kept then.
    """

    name: ClassVar[str] = "hiprune"
    batched: ClassVar[bool] = True
    by_position: ClassVar[bool] = True
    alpha: float = 0.1
    shallow: int | None = None
    shallow_at: float = LLAVA
    inside: bool = False
    official: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise tokenprune.OptionError(f"hiprune's alpha must be in [0, 1], got {self.alpha}")
        if not 0 <= self.shallow_at < 1:
            raise tokenprune.OptionError(
                f"hiprune's shallow_at must be at least 0 and below 1, got {self.shallow_at}"
            )

    @property
    def needs(self) -> frozenset[str]:
        """The attention received in a block of the tower, and the number of blocks."""
        return frozenset({"tower_received", "tower_depth"})

    def tower_blocks(self, depth: int) -> tuple[int, ...]:
        """Return the block that makes anchors."""
        return (min(round(self.shallow_at * depth), depth - 1) if self.shallow is None else self.shallow,)

    @property
    def adaptive(self) -> bool:
        """Whether registers may be anchors or buffers again, so that fewer tokens are kept."""
        return self.official

    def select(
        self, tokens: tokenprune.VisualTokens, scores: Tensor | None, keep: int
    ) -> tokenprune.Selection:
        """Return anchors, then their buffers, then registers; without scores, registers by the same block."""
        (block,) = self.tower_blocks(tokens.signal("tower_depth"))
        shallow = tokens.signal("tower_received")(block)
        deep = shallow if scores is None else scores
        n_anchors = round(keep * self.alpha / PER_ANCHOR)
        anchors = top_slots(shallow, n_anchors)  # (..., A)
        first = torch.cat([anchors, neighbours(anchors, tokens.layout.grid, self.inside).flatten(-2)], -1)
        n = len(tokens)
        by_score = top_slots(deep, n)
        ranks = torch.arange(first.shape[-1], device=first.device).expand_as(first)
        last = torch.full_like(by_score, first.shape[-1])
        rank = last.scatter_reduce(-1, first, ranks, "amin")  # place of each token among the picks
        if self.official:
            return self._with_repeats(rank < first.shape[-1], deep, keep)
        order = rank.gather(-1, by_score).sort(dim=-1, stable=True).indices[..., :keep]
        return tokenprune.Selection.from_order(by_score.gather(-1, order))

    def _with_repeats(self, is_first: Tensor, deep: Tensor, keep: int) -> tokenprune.Selection:
        """Return anchors, buffers and registers of one image, of which some may be the same.

        The official code takes 1 from the scores of anchors and buffers, sums over queries whose mean is 1.
        """
        n_registers = max(0, keep - int(is_first.sum()))
        sums = deep / deep.mean().clamp(min=torch.finfo(deep.dtype).tiny)
        is_kept = is_first.clone()
        is_kept[top_slots(sums - is_first.to(sums.dtype), n_registers)] = True
        return tokenprune.Selection(is_kept.nonzero().squeeze(-1)[:keep])


def neighbours(slots: Tensor, grid: tuple[int, int, int], inside: bool) -> Tensor:
    """Return the tokens left and right of `slots` (..., A), above and below them, (..., 4, A).

    In a grid of one row there are none above and below; a token that has no neighbour is its own.

    Parameters
    ----------
    inside
        Whether rows and the image end there; otherwise tokens are counted on, from the first to the last.
    """
    frames, height, width = grid
    n = frames * height * width
    steps = torch.tensor([-1, 1, -width, width] if height > 1 else [-1, 1, 0, 0], device=slots.device)
    beside = slots.unsqueeze(-2) + steps[:, None]
    if not inside:
        return beside.clamp(0, n - 1)
    column, line = slots % width, slots // width % height
    edges = [column == 0, column == width - 1, line == 0, line == height - 1]
    return torch.where(torch.stack(edges, -2), slots.unsqueeze(-2), beside)


@tokenprune.hookimpl
def tokenprune_selectors() -> list[type[tokenprune.Selector]]:
    """Return the selector class."""
    return [HiPruneSelector]


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the method, and the settings of its official code for Qwen2.5-VL."""
    deviations = (
        "attention in float32; the official code works in the model's precision",
        "if anchors and buffers exceed the budget, the first of them are kept; the official code fails there",
        "in a single row of tokens, such as a tile with unknown grid, none is above or below an anchor",
    )
    return [
        tokenprune.Method(
            name="hiprune",
            title="HiPrune: anchors of a middle block with their neighbours, the rest by deep attention",
            scorer=AttentionScorer(source="tower"),
            selector="hiprune",
            scope="split",
            newlines="drop",
            paper="arXiv 2508.00553",
            deviations=deviations,
        ),
        tokenprune.Method(
            name="hiprune-qwen",
            title="HiPrune as set for Qwen2.5-VL: anchors of the tower's block 15 of 32",
            scorer=AttentionScorer(source="tower"),
            selector=HiPruneSelector(shallow_at=QWEN),
            scope="split",
            newlines="drop",
            paper="arXiv 2508.00553",
            deviations=(
                *deviations,
                "registers are never anchors or buffers, so that the budget is kept; with official=True they "
                "may be, as in the official code",
            ),
        ),
    ]
