# SPDX-License-Identifier: Apache-2.0
"""Prepend the tower's class token to the selected tokens, as in VisionZip and PruneSID (arXiv 2603.09480)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

import tokenprune


@dataclass(frozen=True)
class ClsRowReducer(tokenprune.Reducer):
    """Uses one row of the budget for the class token's projected row, placed before the selected tokens.

    With a budget of one row the selected token is kept instead.
    """

    name: ClassVar[str] = "cls-row"
    batched: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:
        """The class token's row and the projector."""
        return frozenset({"cls_hidden", "projector"})

    def n_selected(self, keep: int, n: int) -> int:
        """Return one less than the budget, but at least 1."""
        return max(1, keep - 1)

    def reduce(
        self, tokens: tokenprune.VisualTokens, selection: tokenprune.Selection, keep: int
    ) -> tokenprune.Selection:
        """Return the class token's row and the selected tokens; only these if they fill the budget."""
        if keep == len(selection):
            return selection
        slots, rows = selection.indices, tokens.features
        hidden = tokens.signal("cls_hidden").float()[..., :1, :]  # of the base view, if tiles compete
        new = tokens.projector(hidden.flatten(0, -2)).to(rows.dtype)
        new = new.view(*slots.shape[:-1], 1, rows.shape[-1])
        kept = rows.gather(-2, slots.unsqueeze(-1).expand(*slots.shape, rows.shape[-1]))
        return tokenprune.Selection(
            indices=torch.cat([slots.new_full((*slots.shape[:-1], 1), -1), slots], -1),
            features=torch.cat([new, kept], -2),
            scores=selection.scores,
        )


@tokenprune.hookimpl
def tokenprune_reducers() -> list[type[tokenprune.Reducer]]:
    """Return the reducer class."""
    return [ClsRowReducer]
