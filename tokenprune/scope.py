# SPDX-License-Identifier: Apache-2.0
"""Divide an image's budget among its tiles, and between patches and newline tokens.

Scope `"image"`: all candidates compete for `keep` rows. Scope `"tile"`: `keep` is the budget of an image with
the model's full number of tiles. With fewer tiles it shrinks in proportion (160 rows for 5 tiles are 96 for
3). It is divided equally; the remainder goes to the first tiles, and rows that a tile has no candidates for
go to the others. Scope `"split"` divides in the same way a `keep` that is the budget of every image,
whatever its number of tiles. Newline tokens are dropped, compete, or are kept on top of the budget. The
counts of a rule are divided in the same way.
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
    """One part of an image: the `slots` (n,) of its candidates, the `rows` to keep of them, its `tile`.

    With a rule `rows` is the most to keep, and `least` the fewest.
    """

    slots: Tensor
    rows: int
    tile: int | None = None
    least: int = 1


def candidates(layout: Layout, newlines: str) -> Tensor:
    """Return the slots of the tokens that compete for the budget, (n,)."""
    slots = torch.arange(len(layout))
    if layout.newlines is not None and newlines != "compete":
        slots = slots[~layout.newlines.cpu()]
    return slots


def share_out(layout: Layout, scope: str, newlines: str, budget: Budget) -> list[Share]:
    """Divide an image's budget, at least one row; parts without rows are left out."""
    slots = candidates(layout, newlines)
    if scope == "image" or layout.tiles is None:
        tiles, parts = [None], [slots]
    else:
        of_token = layout.tiles.cpu()[slots]
        tiles = sorted(set(of_token.tolist()))
        parts = [slots[of_token == tile] for tile in tiles]
    shrink = len(tiles) / layout.full_tiles if scope == "tile" else 1.0
    own, sizes = budget.of_share(shrink), [len(part) for part in parts]
    rows = _equal_shares(min(own.rows(len(layout)), len(slots)), sizes)
    least = _equal_shares(min(own.least(len(layout)), len(slots)), sizes)
    return [
        Share(part, most, tile, max(1, fewest))
        for part, most, tile, fewest in zip(parts, rows, tiles, least, strict=True)
        if most
    ]


def kept_newlines(layout: Layout, newlines: str) -> Tensor:
    """Return the slots of newline tokens that are kept on top of the budget, (n,)."""
    if newlines != "keep" or layout.newlines is None:
        return torch.empty(0, dtype=torch.long)
    return layout.newlines.cpu().nonzero().squeeze(1)


def _equal_shares(rows: int, sizes: list[int]) -> list[int]:
    """Divide rows equally among parts of these sizes; no part gets more than its size."""
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
    """Join the selections of the parts of an image.

    If the first part has new rows, its rows come first, in their order. Next are the other kept rows and
    newline tokens by slot, then the new rows that precede their part's kept rows, part by part, then the
    remaining new rows. Without new rows this is ascending order. Rows that a part changed stay changed.

    Parameters
    ----------
    newlines
        Slots kept on top of the budget, (n,).
    features
        (N, D) of the whole image.
    """
    device, size = features.device, len(features) + 1
    slots, keys, order = [newlines.to(device)], [size * size + newlines.to(device)], []
    rows = [features[newlines.to(device)]]
    scores = features.new_zeros(len(features), dtype=torch.float32)
    for number, (share, selection) in enumerate(zip(shares, selections, strict=True)):
        candidates = share.slots.to(device)
        is_new = selection.indices < 0
        slot = torch.where(is_new, -1, candidates[selection.indices.clamp(min=0)])
        place = torch.arange(len(slot), device=device)
        is_leading = is_new & ((~is_new).cumsum(0) == 0)
        block = torch.where(is_new, torch.where(is_leading, 2, 3), 1)
        key = block * size * size + torch.where(is_new, number * size + place, slot)
        keys.append(key if number else torch.where(is_new.any(), place, key))
        slots.append(slot)
        rows.append(features[slot.clamp(min=0)] if selection.features is None else selection.features)
        order.append(None if selection.order is None else candidates[selection.order])
        if selection.scores is not None:
            scores[candidates] = selection.scores
    sequence = torch.cat(keys).argsort(stable=True)
    indices = torch.cat(slots)[sequence]
    picks = [part for part in order if part is not None]
    is_scored = all(selection.scores is not None for selection in selections)
    is_changed = any(selection.features is not None for selection in selections)
    merges = any(selection.merged_into is not None for selection in selections)
    is_ruled = any(selection.capped is not None for selection in selections)
    return Selection(
        indices=indices,
        order=torch.cat([*picks, newlines.to(device)]) if len(picks) == len(selections) else None,
        features=torch.cat(rows)[sequence] if is_changed else None,
        scores=scores if is_scored else None,
        merged_into=_merges(shares, selections, newlines.to(device), len(features)) if merges else None,
        capped=any(selection.capped for selection in selections) if is_ruled else None,
    )


def _merges(shares: list[Share], selections: list[Selection], newlines: Tensor, n: int) -> Tensor:
    """Return the kept slot that each of the `n` tokens of an image is merged into, -1 for none, (n,)."""
    merged_into = newlines.new_full((n,), -1)
    merged_into[newlines] = newlines
    for share, selection in zip(shares, selections, strict=True):
        candidates, inside = share.slots.to(newlines.device), selection.merged_into
        if inside is None:
            kept = candidates[selection.indices[selection.indices >= 0]]
            merged_into[kept] = kept
        else:
            merged_into[candidates] = torch.where(inside < 0, -1, candidates[inside.clamp(min=0)])
    return merged_into


def cover_slices(selection: Selection, layout: Layout, best_of: Callable[[Tensor], int]) -> Selection:
    """Ensure that every temporal slice of a video keeps at least one row, if there are enough rows.

    An empty slice gets its best token, in place of the latest pick from a slice with more than one row.
    Selections with new or changed rows, or tokens to be merged, are returned unchanged.

    Parameters
    ----------
    best_of
        Returns the index of the best token among the slots of a slice.
    """
    frames, height, width = layout.grid
    is_pure = selection.features is None and selection.merged_into is None
    if frames < 2 or len(selection) < frames or len(layout) != frames * height * width or not is_pure:
        return selection
    rows = selection.indices.tolist()
    size = height * width
    picks = rows if selection.order is None else selection.order.tolist()
    counts = [0] * frames
    for slot in picks:
        counts[slot // size] += 1
    if min(counts):
        return selection
    for empty in [frame for frame, n in enumerate(counts) if n == 0]:
        latest = max(i for i, slot in enumerate(picks) if counts[slot // size] > 1)
        counts[picks.pop(latest) // size] -= 1
        slots = torch.arange(empty * size, (empty + 1) * size)
        picks.append(int(slots[best_of(slots)]))
        counts[empty] = 1
    order = torch.tensor(picks, device=selection.indices.device)
    return dataclasses.replace(selection, indices=order.sort().values, order=order)
