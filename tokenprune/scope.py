# SPDX-License-Identifier: Apache-2.0
"""Dividing an image's budget: among its tiles, and between patches and newline tokens.

Scope `"image"`: all candidates compete for `keep` rows. Scope `"tile"`: `keep` is the budget of an image with
all the tiles the model can have; with fewer tiles it shrinks in proportion (160 rows for 5 tiles are 96 for
3), and is then shared out equally, what does not divide going to the first tiles, what a tile has no
candidates for going to the others. Newline tokens are dropped, compete, or are kept on top of the budget.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .budget import Budget
from .selection import Selection
from .tokens import Layout


@dataclass(frozen=True)
class Share:
    """One part of an image: `slots` (n,) its candidates, `rows` how many of them stay, its `tile`."""

    slots: Tensor
    rows: int
    tile: int | None = None


def share_out(layout: Layout, scope: str, newlines: str, budget: Budget) -> list[Share]:
    """Divide a budget of an image; parts that get nothing are left out, the image gets at least one row."""
    candidates = torch.arange(len(layout))
    if layout.newlines is not None and newlines != "compete":
        candidates = candidates[~layout.newlines.cpu()]
    if scope == "image" or layout.tiles is None:
        tiles, parts = [None], [candidates]
        shrink = 1.0 if scope == "image" else 1 / layout.full_tiles
    else:
        of_token = layout.tiles.cpu()[candidates]
        tiles = sorted(set(of_token.tolist()))
        parts = [candidates[of_token == tile] for tile in tiles]
        shrink = len(tiles) / layout.full_tiles
    rows = _shrunk(budget, len(layout), shrink)
    shares = _equal_shares(min(rows, len(candidates)), [len(part) for part in parts])
    return [Share(part, n, tile) for part, n, tile in zip(parts, shares, tiles, strict=True) if n]


def kept_newlines(layout: Layout, newlines: str) -> Tensor:
    """Slots of newline tokens that stay on top of the budget, (n,)."""
    if newlines != "keep" or layout.newlines is None:
        return torch.empty(0, dtype=torch.long)
    return layout.newlines.cpu().nonzero().squeeze(1)


def _shrunk(budget: Budget, n: int, shrink: float) -> int:
    """Rows for this image: a share of its tokens as it is, a number in proportion to its tiles."""
    if budget.keep is None:
        return budget.rows(n)
    return max(1, int(budget.keep * shrink + 0.5))


def _equal_shares(rows: int, sizes: list[int]) -> list[int]:
    """Share rows out equally among parts of these sizes; none gets more than it has."""
    shares = [0] * len(sizes)
    while rows:
        open_parts = [i for i, size in enumerate(sizes) if shares[i] < size]
        each, rest = divmod(rows, len(open_parts))
        for number, i in enumerate(open_parts):
            more = min(each + (number < rest), sizes[i] - shares[i])
            shares[i] += more
            rows -= more
    return shares


def join(shares: list[Share], selections: list[Selection], newlines: Tensor, features: Tensor) -> Selection:
    """Make one selection of the parts'.

    Where the first part has new rows, its rows stand as they are. Behind them the other parts' kept rows by
    slot, with the newline tokens that stay among them; then new rows that stood in front of their part's kept
    rows, part by part; then the other new rows. For pure selections that is simply ascending.

    Parameters
    ----------
    newlines
        Slots kept on top, (n,).
    features
        (N, D) of the whole image.
    """
    device, size = features.device, len(features) + 1
    slots, keys, order = [newlines.to(device)], [size * size + newlines.to(device)], []
    rows = [features[newlines.to(device)]]
    scores = features.new_zeros(len(features), dtype=torch.float32)
    for number, (share, selection) in enumerate(zip(shares, selections, strict=True)):
        own = share.slots.to(device)
        is_new = selection.indices < 0
        slot = torch.where(is_new, -1, own[selection.indices.clamp(min=0)])
        place = torch.arange(len(slot), device=device)
        in_front = is_new & ((~is_new).cumsum(0) == 0)
        block = torch.where(is_new, torch.where(in_front, 2, 3), 1)
        key = block * size * size + torch.where(is_new, number * size + place, slot)
        keys.append(key if number else torch.where(is_new.any(), place, key))
        slots.append(slot)
        rows.append(features[slot.clamp(min=0)] if selection.features is None else selection.features)
        order.append(None if selection.order is None else own[selection.order])
        if selection.scores is not None:
            scores[own] = selection.scores
    sequence = torch.cat(keys).argsort(stable=True)
    indices = torch.cat(slots)[sequence]
    picks = [part for part in order if part is not None]
    scored = all(selection.scores is not None for selection in selections)
    return Selection(
        indices=indices,
        order=torch.cat([*picks, newlines.to(device)]) if len(picks) == len(selections) else None,
        features=torch.cat(rows)[sequence] if bool((indices < 0).any()) else None,
        scores=scores if scored else None,
    )


def cover_slices(selection: Selection, layout: Layout, best_of: Callable[[Tensor], int]) -> Selection:
    """Give every temporal slice of a video at least one row, where there are rows enough.

    A slice that was left empty gets its own best token, in place of the latest pick from a slice that keeps
    another. Selections with new rows stay as they are.

    Parameters
    ----------
    best_of
        Given the slots of a slice, says which of its tokens is the best.
    """
    frames, height, width = layout.grid
    rows = selection.indices.tolist()
    if frames < 2 or len(rows) < frames or len(layout) != frames * height * width or min(rows) < 0:
        return selection
    size = height * width
    picks = rows if selection.order is None else selection.order.tolist()
    held = [0] * frames
    for slot in picks:
        held[slot // size] += 1
    if min(held):
        return selection
    for empty in [frame for frame, n in enumerate(held) if n == 0]:
        latest = max(i for i, slot in enumerate(picks) if held[slot // size] > 1)
        held[picks.pop(latest) // size] -= 1
        slots = torch.arange(empty * size, (empty + 1) * size)
        picks.append(int(slots[best_of(slots)]))
        held[empty] = 1
    order = torch.tensor(picks, device=selection.indices.device)
    return dataclasses.replace(selection, indices=order.sort().values, order=order)
