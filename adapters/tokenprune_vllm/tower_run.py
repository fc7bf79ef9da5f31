# SPDX-License-Identifier: Apache-2.0
"""One run of a vision tower of vLLM, which drops tokens before some of its blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from tokenprune import Budget, Selection, VisualTokens
from tokenprune.towers.checks import SIZES
from tokenprune.towers.group import TokenGroup
from tokenprune.towers.image import TowerImage
from tokenprune.towers.run import TowerRun

from .ranks import broadcast_selection
from .settings import Settings

TOWER_SIGNALS = frozenset({"pre_features", SIZES})
WITH_CLASS_ROW = TOWER_SIGNALS | {"cls_hidden"}


class EngineRun(TowerRun):
    """The state of one run of a tower over items of a step.

    Parameters
    ----------
    settings
        How the engine prunes.
    images_of
        Returns the items as images of the tower, given the number of sequences and of rows in each.
    budgets
        The budget of each item.
    n_prefix, packed
        As in `TowerRun`; the first row of a prefix is a class token.
    """

    def __init__(
        self,
        settings: Settings,
        images_of: Callable[[tuple[int, int]], Sequence[TowerImage]],
        budgets: Sequence[Budget],
        n_prefix: int = 0,
        packed: bool = False,
    ) -> None:
        super().__init__(settings.cut(settings.budget), settings.n_blocks, n_prefix, packed)
        self._images_of, self._budgets = images_of, budgets

    def images(self, shape: tuple[int, int]) -> Sequence[TowerImage]:
        """Return the items as images of the tower."""
        return self._images_of(shape)

    def budget(self, number: int, image: TowerImage) -> Budget:
        """Return the budget of an item."""
        return self._budgets[number]

    def view(self, i: int, hidden: Tensor, group: TokenGroup) -> VisualTokens:
        """Return the rows of a group as features, and the signals of `TOWER_SIGNALS`."""
        rows = hidden[group.sequences, group.places].flatten(2)
        signals = {"pre_features": rows, SIZES: group.sizes}
        if self._n_prefix:
            signals["cls_hidden"] = hidden[group.sequences[:, 0], 0]
        return VisualTokens(rows, signals, group.layout)

    def select(
        self, i: int, tokens: VisualTokens, keep: int | Budget, numbers: Sequence[int], n_images: int
    ) -> list[Selection]:
        """Select tokens on the first rank for all ranks, which have the same rows."""
        return [
            broadcast_selection(selection) for selection in super().select(i, tokens, keep, numbers, n_images)
        ]

    def tokens_left(self) -> list[Selection | None]:
        """Return the tokens left of each item, as a selection among all; None if all are."""
        outcome = self.outcome
        if outcome is None or outcome.survivors is None:
            return [None] * len(self._budgets)
        return [
            Selection(tokens.cpu()) if left else None
            for tokens, left in zip(outcome.tokens, outcome.left, strict=True)
        ]
