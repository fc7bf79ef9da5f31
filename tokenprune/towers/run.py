# SPDX-License-Identifier: Apache-2.0
"""One run of a vision tower: plan its cuts, choose tokens at each, and gather the rows that are left."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from ..batch import select_each
from ..budget import Budget
from ..cut import Cut
from ..gather import take
from ..image_plan import ImagePlan, plan_image
from ..precision import without_autocast
from ..selection import Selection, in_order_of_slots, sizes_of_all
from ..stack import in_chunks
from ..tokens import VisualTokens
from .checks import check_equal_counts
from .group import Left, TokenGroup
from .image import TowerImage, on_device
from .outcome import Outcome
from .survivors import Survivors
from .tracing import boundary_before


class TowerRun(ABC):
    """The state of one run of a tower over its images.

    Parameters
    ----------
    cut
        The method and its budget.
    n_blocks
        Blocks of the tower before which tokens can be cut.
    n_prefix
        Rows of each sequence before its patches.
    packed
        Whether the rows of all images are one sequence, instead of a batch of equal lengths.
    traces_prefix
        Whether traces count the prefix of each sequence too.

    Attributes
    ----------
    outcome
        What is left; None before the first boundary.
    plans
        For each image, the number of tokens to keep before the blocks at which it is cut.
    selections
        Of each image, by its number, the selection before each block.
    """

    def __init__(
        self, cut: Cut, n_blocks: int, n_prefix: int = 0, packed: bool = False, traces_prefix: bool = False
    ) -> None:
        self.cut = cut
        self._n_beside = n_prefix if traces_prefix else 0
        self._n_blocks, self._n_prefix, self._packed = n_blocks, n_prefix, packed
        self.outcome: Outcome | None = None
        self.plans: list[Mapping[int, int]] = []
        self.selections: dict[int, dict[int, Selection]] = {}
        self._shape = (0, 0)  # (S, M) of all rows
        self._left: list[Left] = []
        self._rows_left: list[Tensor] = []  # of each image, as indices into the flattened rows

    @abstractmethod
    def images(self, shape: tuple[int, int]) -> Sequence[TowerImage]:
        """Find the images among the tower's rows, S sequences of M."""

    @abstractmethod
    def view(self, i: int, hidden: Tensor, group: TokenGroup) -> VisualTokens:
        """Return what strategies can read of a group at the cut before block `i`, a stack of B images.

        Parameters
        ----------
        hidden
            (S, M, D) the rows that enter the block, detached.
        """

    def budget(self, number: int, image: TowerImage) -> Budget:
        """Return the budget of an image."""
        return self.cut.budget

    def select(
        self, i: int, tokens: VisualTokens, keep: int | Budget, numbers: Sequence[int], n_images: int
    ) -> list[Selection]:
        """Select `keep` tokens of each image of a stack before block `i`; see `select_each`."""
        return select_each(self.cut.method, tokens, keep, numbers, n_images, layer=i)

    def begin(self, hidden: Tensor) -> Outcome:
        """Find the images among the rows (S, M, D), and plan how many tokens to keep of each."""
        self._shape, device = (hidden.shape[0], hidden.shape[1]), hidden.device
        images = on_device(self.images(self._shape), device)
        plans: dict[tuple[Budget, int], ImagePlan] = {}
        notes: dict[int, str] = {}
        for number, image in enumerate(images):
            budget, n = self.budget(number, image), len(image.rows)
            cut = dataclasses.replace(self.cut, budget=budget)
            plan = plans[budget, n] = plans.get((budget, n)) or plan_image(cut, n, self._n_blocks)
            self.plans.append(plan.cuts)
            if plan.left_alone is not None:
                notes[number] = plan.left_alone.note(cut)
        whole = {n: Left.all_of(n, device) for n in {len(image.rows) for image in images}}
        self._left = [whole[len(image.rows)].shown(image.shown) for image in images]
        self._rows_left = [image.rows for image in images]
        self.outcome = Outcome(
            images,
            [whole[len(image.rows)].tokens for image in images],
            [{} for _ in images],
            notes=notes,
            keeps_newlines=self.cut.method.newlines == "keep",
        )
        return self.outcome

    def cut_before(self, i: int, hidden: Tensor, traces: bool) -> Tensor:
        """Choose tokens before block `i`, and drop the rows of the others: (S, M, D) -> (S, K, D)."""
        start = time.perf_counter()
        outcome = self.begin(hidden) if self.outcome is None else self.outcome
        n_before = [len(tokens) for tokens in outcome.tokens]
        numbers = [number for number, plan in enumerate(self.plans) if i in plan]
        if numbers:
            hidden = self._cut_images(i, numbers, outcome, hidden)
        if traces:
            outcome.boundaries.append(boundary_before(i, n_before, outcome.tokens, self._n_beside))
        outcome.seconds += time.perf_counter() - start
        return hidden

    @property
    def survivors(self) -> Survivors | None:
        """The rows that are left; None if none was dropped."""
        return None if self.outcome is None else self.outcome.survivors

    def kept(self, number: int) -> Tensor:
        """(K,) the tokens left of an image, -1 for rows that a reducer made."""
        left = self._left[number]
        return torch.where(left.is_new, -1, left.tokens)

    def _cut_images(self, i: int, numbers: Sequence[int], outcome: Outcome, hidden: Tensor) -> Tensor:
        """Run the method on the images that are cut before block `i`, and gather the rows that are left."""
        before = outcome.survivors
        chunks = in_chunks(numbers, lambda number: self._key(i, number), lambda n: len(self._left[n].tokens))
        chosen = []
        with torch.no_grad(), without_autocast(hidden.device):
            for chunk in chunks:
                group = TokenGroup.of(chunk, outcome.images, self._left, self._shape[1], before)
                rows, of_image = self.plans[chunk[0]][i], self.budget(chunk[0], outcome.images[chunk[0]])
                keep = min(rows, group.tokens.shape[1]) if of_image.rule is None else of_image
                view = self.view(i, hidden.detach(), group)
                chosen.append((group, self.select(i, view, keep, chunk, len(numbers))))
        if any(selection.features is not None for _, selections in chosen for selection in selections):
            hidden = hidden.clone()
        for group, selections in chosen:
            self._drop(i, group, selections, hidden)
        if not self._packed:
            check_equal_counts(self.cut.method, outcome.tokens)
        survivors = Survivors.of(outcome.images, self._rows_left, self._shape, self._n_prefix, self._packed)
        outcome.states.append(survivors)
        outcome.blocks.append(i)
        return take(hidden, survivors.places_in(before))

    def _key(self, i: int, number: int) -> Hashable:
        """Images with the same key are selected from together."""
        assert self.outcome is not None
        layout = self.outcome.images[number].layout
        if self.cut.adaptive or not layout.is_plain:
            return number
        return layout.grid, len(self._left[number].tokens), self.plans[number][i]

    def _drop(self, i: int, group: TokenGroup, selections: list[Selection], hidden: Tensor) -> None:
        """Note which tokens of a group are left, and write rows that a reducer changed to `hidden`."""
        assert self.outcome is not None
        n = group.tokens.shape[1]
        selections, slots = in_order_of_slots(selections, n)
        of_rows = slots[..., None].expand(-1, -1, group.rows.shape[2])
        rows, places = group.rows.gather(1, of_rows), group.places.gather(1, of_rows)
        for index, selection in enumerate(selections):
            if selection.features is not None:
                features = selection.features.to(hidden.dtype).view(*places.shape[1:], -1)
                hidden[group.sequences[index, 0], places[index]] = features
                self.outcome.merged.setdefault(i, []).append((rows[index], selection.features))
        indices = torch.stack([selection.indices for selection in selections])
        left = (
            group.tokens.gather(1, slots),
            sizes_of_all(selections, group.sizes),
            group.is_new.gather(1, slots) | (indices < 0),
        )
        for index, number in enumerate(group.numbers):
            self.selections.setdefault(number, {})[i] = selections[index]
            self.outcome.note_capped(number, selections[index].capped)
            self._left[number] = Left(*(column[index] for column in left))
            kept = self._left[number].tokens
            self.outcome.left[number][i] = len(kept)
            self.outcome.tokens[number] = self.outcome.filled_up(number, kept, self.plans[number][i])
            is_filled = self.outcome.tokens[number] is not kept
            all_rows = self.outcome.images[number].rows
            self._rows_left[number] = all_rows[self.outcome.tokens[number]] if is_filled else rows[index]
