# SPDX-License-Identifier: Apache-2.0
"""The rows that a method keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Selection:
    """The rows kept of one image, K of N.

    `indices`: (K,) the slot of each row, in the order of the rows; ascending if no row is new. -1 marks a new
    row (merged or recycled), which takes the position of the next free slot.
    `order`: (K,) the slots in the order they were picked, if the selector picks one by one.
    `features`: (K, D) the rows, required if one of them is new or changed, otherwise None.
    `scores`: (N,) the scores the selection is based on, or None if there are none.
    `merged_into`: (N,) the kept slot that each token is merged into, its own for kept tokens, -1 for none;
    None if no token is merged. A selector sets it for a reducer, a reducer together with `features`.
    `capped`: of a budget with a rule, whether its limit stopped the selector before the rule was met; None
    without a rule. Set by tokenprune.
    For a stack of B images the shapes are (B, K), (B, K, D) and (B, N).
    """

    indices: Tensor
    order: Tensor | None = None
    features: Tensor | None = None
    scores: Tensor | None = None
    merged_into: Tensor | None = None
    capped: bool | None = None

    @classmethod
    def from_order(cls, order: Tensor) -> Selection:
        """Make a selection without new rows from the picks `order` (K,) or (B, K); sorts the indices."""
        return cls(indices=order.sort(-1).values, order=order)

    def __len__(self) -> int:
        """Number of rows kept, K."""
        return self.indices.shape[-1]

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.indices.shape))
        held = [name for name in ("features", "scores", "merged_into") if getattr(self, name) is not None]
        return f"<Selection of {shape} rows{', with ' * bool(held)}{', '.join(held)}>"


def sizes_after(indices: Tensor, merged_into: Tensor | None, before: Tensor) -> Tensor:
    """Count the patches that each kept row stands for, (K,) or (B, K), as the signal `sizes`.

    Those of dropped tokens that are not merged are lost; a new row (-1) counts as one patch.

    Parameters
    ----------
    indices, merged_into
        Those of the selection; `merged_into` is None if its rows are those of the kept tokens alone.
    before
        The patches that each token stands for, (N,) or (B, N), float32.
    """
    if merged_into is not None:
        counted = before * (merged_into >= 0)
        before = torch.zeros_like(before).scatter_add(-1, merged_into.clamp(min=0), counted)
    return before.gather(-1, indices.clamp(min=0)).masked_fill(indices < 0, 1)


def fill_new_rows(indices: Tensor, n: int) -> Tensor:
    """Assign each new row (-1) of `indices` (K,) the next free slot of `n` after the previous row.

    If there is none, it gets the lowest free slot.
    """
    if not bool((indices < 0).any()):
        return indices
    taken = set(indices.tolist())
    filled, last = [], -1
    for index in indices.tolist():
        if index < 0:
            index = next(slot for slot in (*range(last + 1, n), *range(last + 1)) if slot not in taken)
            taken.add(index)
        filled.append(index)
        last = index
    return torch.tensor(filled, device=indices.device)


def in_order_of_slots(selections: Sequence[Selection], n: int) -> tuple[list[Selection], Tensor]:
    """Sort the rows of selections of equal size by their slots among `n`, new ones in free slots.

    Returns
    -------
    tuple
        The selections of B images, and the slots (B, K), ascending.
    """
    slots = torch.stack([selection.indices for selection in selections])
    if not bool((slots < 0).any()):
        return list(selections), slots
    filled = torch.stack([fill_new_rows(indices, n) for indices in slots])
    slots, orders = filled.sort(1)
    return [_sorted(each, order) for each, order in zip(selections, orders, strict=True)], slots


def _sorted(selection: Selection, order: Tensor) -> Selection:
    features = None if selection.features is None else selection.features[order]
    return replace(selection, indices=selection.indices[order], features=features)


def sizes_of_all(selections: Sequence[Selection], before: Tensor) -> Tensor:
    """Count the patches that each kept row of several images stands for, (B, N) -> (B, K); see `sizes_after`.

    Tokens are merged only where a reducer has replaced the rows.
    """
    merges = [each.merged_into if each.features is not None else None for each in selections]
    merged_into = None
    if any(goal is not None for goal in merges):
        own = torch.arange(before.shape[1], device=before.device)
        merged_into = torch.stack([own if goal is None else goal for goal in merges])
    return sizes_after(torch.stack([each.indices for each in selections]), merged_into, before)
