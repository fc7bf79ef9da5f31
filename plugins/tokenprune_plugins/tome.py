# SPDX-License-Identifier: Apache-2.0
"""ToMe: merge a few tokens before every block. Bolya et al., ICLR 2023, arXiv 2210.09461.

Tokens are divided alternately into the sets A and B. Each token of A is paired with the token of B whose key
is most similar, and the r most similar pairs are merged, to the mean of the patches that they stand for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune
from tokenprune.functional import unit_rows

from .absorb import merged, merged_means, most_similar_kept, products

DEPTH = 12  # blocks of ViT-B


@dataclass(frozen=True)
class BipartiteSelector(tokenprune.Selector):
    """Drops the tokens of A that are most similar to a token of B, and pairs them for a reducer.

    A are the tokens at odd slots and B those at even slots, as in a tower with a class token before the
    patches. Similarities are cosines of `key_metric`. One matching drops at most half of the tokens; if more
    are to be dropped, those that are left are divided and matched again, with the means of the merged keys.
    Equal pairs are merged from the highest slot down. Scores are not used.
    """

    name: ClassVar[str] = "bipartite"
    space: ClassVar[str | None] = "key_metric"
    by_position: ClassVar[bool] = True
    batched: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:
        """Keys."""
        return frozenset({"key_metric"})

    def select(
        self, tokens: tokenprune.VisualTokens, scores: Tensor | None, keep: int
    ) -> tokenprune.Selection:
        """Return the tokens left, with `merged_into` for a reducer."""
        kept, merged_into = bipartite(tokens.signal("key_metric"), keep, sizes_of(tokens))
        return tokenprune.Selection(kept, merged_into=None if keep == len(tokens) else merged_into)


@dataclass(frozen=True)
class MergeReducer(tokenprune.Reducer):
    """Replaces each kept row by the mean of the rows merged into it, weighted by the patches they stand for.

    Which are merged is decided by the selector. After a selector that only drops tokens, each dropped row is
    merged into the most similar kept row, as in `absorb`. The weights are the signal `sizes`, all equal if
    there is none.
    """

    name: ClassVar[str] = "merge"
    batched: ClassVar[bool] = True

    def n_selected(self, keep: int, n: int) -> int:
        """Return `keep`: no row is added."""
        return keep

    def reduce(
        self, tokens: tokenprune.VisualTokens, selection: tokenprune.Selection, keep: int
    ) -> tokenprune.Selection:
        """Return the selected slots with the merged rows."""
        merged_into = selection.merged_into
        if merged_into is None:
            merged_into = most_similar_kept(tokens.features, selection.indices)
        return merged(tokens.features, selection, merged_into, sizes_of(tokens))


def sizes_of(tokens: tokenprune.VisualTokens) -> Tensor | None:
    """Return the number of patches that each token stands for, (N,) or (B, N), or None if all are equal."""
    sizes: Tensor | None = tokens.signal("sizes") if "sizes" in tokens.provides else None
    return sizes


def bipartite(metric: Tensor, keep: int, sizes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Match tokens until `keep` are left.

    Parameters
    ----------
    metric
        (N, d) or (B, N, d) rows to compare.
    sizes
        (N,) or (B, N) weights of the rows in the means that further matchings compare; None for equal ones.

    Returns
    -------
    tuple of Tensor
        Slots of the tokens left, (keep,) or (B, keep), ascending, and the slot that each token is merged
        into, (N,) or (B, N).
    """
    if metric.ndim == 2:
        kept, into = bipartite(metric.unsqueeze(0), keep, None if sizes is None else sizes.unsqueeze(0))
        return kept.squeeze(0), into.squeeze(0)
    metric = metric.detach().float()
    left = torch.arange(metric.shape[1], device=metric.device).repeat(len(metric), 1)
    into, rows = left, metric
    while left.shape[1] > keep:
        kept, goal = matched(rows, max(keep, left.shape[1] - left.shape[1] // 2))
        step = torch.arange(into.shape[1], device=into.device).repeat(len(into), 1)
        into = step.scatter(1, left, left.gather(1, goal)).gather(1, into)
        left = left.gather(1, kept)
        if left.shape[1] > keep:
            rows = merged_means(metric, left, into, sizes)
    return left, into


def matched(rows: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Merge the most similar pairs of odd and even rows (B, M, d) until `keep` >= M / 2 are left.

    Returns the rows left, (B, keep), ascending, and the row that each is merged into, (B, M).
    """
    n, unit = rows.shape[1], unit_rows(rows)
    own = torch.arange(n, device=rows.device).repeat(len(rows), 1)
    odd, even = own[:, 1::2], own[:, ::2]
    best, partner = products(unit[:, 1::2], unit[:, ::2].mT).max(-1)  # (B, n // 2)
    stay, leave = best.argsort(dim=-1, stable=True).tensor_split([n // 2 - (n - keep)], dim=1)
    into = own.scatter(1, odd.gather(1, leave), even.gather(1, partner.gather(1, leave)))
    return torch.cat([even, odd.gather(1, stay)], 1).sort(-1).values, into


@dataclass(frozen=True)
class EveryBlockSchedule(tokenprune.Schedule):
    """Cuts before every block but the first, each dropping the same number of rows, up to rounding.

    `layers` are the blocks of a model of `depth`; models of another depth are cut before all their blocks
    but the first. With depth None only the given blocks are used.
    """

    layers: tuple[int, ...] = tuple(range(1, DEPTH))
    depth: int | None = DEPTH

    def boundaries(self, n_layers: int) -> tuple[int, ...]:
        """Return all blocks but the first, or the given ones with depth None; see `Schedule.boundaries`."""
        if self.depth is None:
            return super().boundaries(n_layers)
        if n_layers < 2:
            raise tokenprune.IncompatibleError(
                f"tokens are merged before every block but the first, and the model has {n_layers}"
            )
        return tuple(range(1, n_layers))

    def rows_at(self, level: int, n: int) -> tuple[int, ...]:
        """Return the rows left after each cut: n - i (n - level) / S after cut i of S, rounded up."""
        n_cuts = len(self.layers)
        return tuple(n - i * (n - level) // n_cuts for i in range(1, n_cuts + 1))

    def cuts(self, keep: int, n: int, n_layers: int, budget: str = "rows") -> dict[int, int]:
        """Return {block: rows left} of an image of `n` tokens; see `Schedule.cuts`."""
        if self.depth is None:
            return super().cuts(keep, n, n_layers, budget)
        return self.at(*self.boundaries(n_layers)).cuts(keep, n, n_layers, budget)


@tokenprune.hookimpl
def tokenprune_selectors() -> list[type[tokenprune.Selector]]:
    """Return the selector class."""
    return [BipartiteSelector]


@tokenprune.hookimpl
def tokenprune_reducers() -> list[type[tokenprune.Reducer]]:
    """Return the reducer class."""
    return [MergeReducer]


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the method."""
    return [
        tokenprune.Method(
            name="tome",
            title="ToMe: merge similar tokens before every block",
            scorer="uniform",
            selector="bipartite",
            reducer="merge",
            stage="vision",
            schedule=EveryBlockSchedule(),
            paper="arXiv 2210.09461 (ICLR 2023)",
            deviations=(
                "merges between blocks, by the keys of the block before; the official code merges between "
                "the attention and the MLP of a block, and so also in the last block",
                "no proportional attention: a row that stands for several patches is attended to as one",
                "rows stay in raster order and are divided anew in this order; the official code puts the "
                "rows of B after those of A",
                "the budget is the rows left in the end, reached exactly; the official code is given the "
                "rows to merge in each block, at most half of them",
                "patches are divided as if a class token alone preceded them, whatever precedes them",
            ),
        )
    ]
