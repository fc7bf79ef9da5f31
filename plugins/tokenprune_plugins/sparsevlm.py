# SPDX-License-Identifier: Apache-2.0
"""SparseVLM: three cuts by the attention of text tokens. Zhang et al., ICML 2025, arXiv 2410.04417."""

from __future__ import annotations

from dataclasses import dataclass

import tokenprune

from .nominal_rows import check_number_of_layers, rows_between
from .raters import RaterScorer
from .recycle import n_recycled_rows

# The official code's lists for LLaVA-1.5: tokens kept after layers 2, 6 and 15 for a nominal budget
OFFICIAL_N = 576
V1 = ((64, (66, 30, 17)), (96, (238, 48, 26)), (128, (303, 110, 36)), (192, (300, 200, 110)))
PLUS = ((64, (66, 34, 20)), (96, (246, 54, 28)), (128, (238, 108, 60)), (192, (300, 200, 118)))
N_HEADS = 14  # of 32, in the official code of the + variant


@dataclass(frozen=True)
class SparseVlmSchedule(tokenprune.Schedule):
    """The official lists of budgets, interpolated and scaled by N / 576; recycled rows are counted.

    Below the smallest list rows scale in proportion to it; above the largest, towards keeping all tokens.
    """

    table: tuple[tuple[int, tuple[int, ...]], ...]
    recycles: bool
    layers: tuple[int, ...] = (3, 7, 16)
    depth: int | None = 32

    def rows_at(self, level: int, n: int) -> tuple[int, ...]:
        """Return the rows left after each cut at a nominal budget of `level` of `n`.

        Raises
        ------
        OptionError
            If the number of layers differs from the number of cuts in the lists.
        """
        check_number_of_layers("SparseVLM", self.layers, self.table, [3, 7, 16])
        rows, remaining = [], n
        for of_official in rows_between(self.table, level * OFFICIAL_N / n, OFFICIAL_N):
            kept = max(1, min(remaining - 1, round(of_official * n / OFFICIAL_N)))
            remaining = kept + n_recycled_rows(remaining - kept) if self.recycles else kept
            rows.append(remaining)
        return tuple(rows)


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return SparseVLM with recycling, and its + variant without."""
    paper = "arXiv 2410.04417 (ICML 2025)"
    lists = "fixed lists of budgets, as in the official code, which does not contain the paper's rank rule"
    return [
        tokenprune.Method(
            name="sparsevlm",
            title="SparseVLM: attention of text tokens, with recycling",
            scorer="raters",
            selector="topk",
            reducer="recycle",
            stage="decoder",
            schedule=SparseVlmSchedule(V1, recycles=True),
            positions="contiguous",
            newlines="compete",
            paper=paper,
            deviations=(lists, "clustering without the official code's random noise of 1e-6"),
        ),
        tokenprune.Method(
            name="sparsevlm-plus",
            title="SparseVLM+: attention of text tokens, corrected for rotary, without recycling",
            scorer=RaterScorer(undo_rotary=True, n_heads=N_HEADS),
            selector="topk",
            stage="decoder",
            schedule=SparseVlmSchedule(PLUS, recycles=False),
            positions="original",
            newlines="compete",
            paper=paper,
            deviations=(lists,),
        ),
    ]
