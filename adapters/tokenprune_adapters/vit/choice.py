# SPDX-License-Identifier: Apache-2.0
"""Run a method on a batch of equal images, all at once if its parts are batched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune import Method, Selection, VisualTokens
from tokenprune.selection import fill_new_rows, sizes_after
from tokenprune.stack import image_of, selections_of


@dataclass
class Chosen:
    """The kept rows of each image: `slots` (B, K), a free slot for new rows (`is_new`)."""

    slots: Tensor
    is_new: Tensor
    selections: list[Selection]

    def take(self, patches: Tensor) -> Tensor:
        """Gather the kept rows, including new ones, (B, N, D) -> (B, K, D)."""
        rows = gather_rows(patches, self.slots)
        new = [selection.features for selection in self.selections]
        if all(features is None for features in new):
            return rows
        merged = [row if features is None else features for row, features in zip(rows, new, strict=True)]
        return torch.stack(merged).to(rows.dtype)

    def sizes(self, before: Tensor | None, n: int) -> Tensor | None:
        """Count the patches that each kept row stands for, (B, K); None if each stands for one.

        Parameters
        ----------
        before
            The same for the `n` rows before the cut, (B, N).
        """
        merges = [s.merged_into if s.features is not None else None for s in self.selections]
        if all(goal is None for goal in merges):
            return None if before is None else sizes_after(self.indices, None, before)
        own = torch.arange(n, device=self.slots.device)
        merged_into = torch.stack([own if goal is None else goal for goal in merges])
        ones = torch.ones(merged_into.shape, device=own.device)
        return sizes_after(self.indices, merged_into, ones if before is None else before)

    @property
    def indices(self) -> Tensor:
        """Slots (B, K), -1 for new rows."""
        return torch.where(self.is_new, -1, self.slots)


def choose(method: Method, tokens: VisualTokens, keep: int, layer: int) -> Chosen:
    """Choose `keep` rows of each image of a stack (B, N, D), before block `layer`."""
    if all(part.stacks for part in method.parts):
        selections = selections_of(method.select(tokens, keep, layer=layer))
    else:
        images = [image_of(tokens, number) for number in range(len(tokens.features))]
        selections = [method.select(image, keep, layer=layer) for image in images]
    indices = torch.stack([selection.indices for selection in selections])
    is_new = indices < 0
    if bool(is_new.any()):
        slots = torch.stack([fill_new_rows(row, len(tokens)) for row in indices])
    else:
        slots = indices
    return Chosen(slots, is_new, selections)


def gather_rows(rows: Tensor, slots: Tensor) -> Tensor:
    """Gather rows (B, ..., N, D) at `slots` (B, K) of each image -> (B, ..., K, D)."""
    index = slots.view(len(slots), *[1] * (rows.ndim - 3), slots.shape[1], 1)
    return rows.gather(-2, index.expand(*rows.shape[:-2], slots.shape[1], rows.shape[-1]))
