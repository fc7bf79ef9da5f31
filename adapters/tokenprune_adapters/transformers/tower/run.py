# SPDX-License-Identifier: Apache-2.0
"""One run of the vision tower of a vision-language model over the images of an encoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from tokenprune import Budget, Cut, UnsupportedCallError, VisualTokens
from tokenprune.stack import stack
from tokenprune.towers.checks import PIXELS
from tokenprune.towers.group import TokenGroup
from tokenprune.towers.image import TowerImage
from tokenprune.towers.run import TowerRun

from ..encoded import Encoding
from .gather import ShortArguments
from .parts import TowerParts
from .signals import Looked, TokensInTower

if TYPE_CHECKING:
    from ..facts import VisionLanguageFacts


class Run(TowerRun):
    """The state of one run of the tower over the images of an encoding.

    `looked` is the attention of the block before each cut, `pixels` what the tower was called with.
    """

    def __init__(self, adapter: VisionLanguageFacts, parts: TowerParts, cut: Cut, encoding: Encoding) -> None:
        super().__init__(cut, parts.n_projected, parts.n_prefix, parts.packed)
        self._adapter, self._parts, self.encoding = adapter, parts, encoding
        self.pixels: Tensor | None = None
        self._arguments: ShortArguments | None = None
        self.looked: dict[int, Looked] = {}

    def images(self, shape: tuple[int, int]) -> Sequence[TowerImage]:
        """Find the images among the tower's rows, S sequences of M."""
        return self._adapter.tower_images(self.encoding.arguments, shape)

    def budget(self, number: int, image: TowerImage) -> Budget:
        """Return the budget of an image or a tile, its share of that of all tiles."""
        budget = self.cut.budget.of_share(1 / image.full_tiles)
        if image.shown is not None and budget.keep is None and not self._parts.tiled:
            raise UnsupportedCallError(
                "keep_ratio= asks for unequal numbers of tokens of these pictures, which the vision tower "
                "runs as one batch, of equal lengths; give keep=, or pictures of one size"
            )
        return budget

    @property
    def arguments(self) -> ShortArguments | None:
        """Shortens the arguments of blocks to the rows that are left; None as long as no row was dropped."""
        survivors = self.survivors
        if survivors is None:
            return None
        if self._arguments is None or self._arguments.survivors is not survivors:
            self._arguments = ShortArguments(survivors)
        return self._arguments

    def view(self, i: int, hidden: Tensor, group: TokenGroup) -> VisualTokens:
        """Return what strategies can read of a group at the cut before block `i`, a stack of B images."""
        looked = self.looked.get(i)
        if looked is not None and looked.borders is None and self._parts.packed:
            assert self.outcome is not None
            looked.borders = self.outcome.borders
        images = []
        for index, number in enumerate(group.numbers):
            tokens = TokensInTower(
                self._parts,
                hidden,
                int(group.sequences[index]),
                group.places[index],
                looked,
                self._pixels(number, group.tokens[index]),
                group.sizes[index],
            )
            images.append(VisualTokens(tokens.features(), tokens.signals(), group.layout))
        return stack(images)

    def _pixels(self, number: int, tokens: Tensor) -> Tensor | None:
        """Pixels (N, P * values) of the tokens of an image, if the method reads them."""
        if PIXELS not in self.cut.method.needs:
            return None
        assert self.pixels is not None and self.outcome is not None
        return self._adapter.pixels_of(self.pixels, self.outcome.images[number].rows)[tokens]
