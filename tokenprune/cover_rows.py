# SPDX-License-Identifier: Apache-2.0
"""Shorten a selection to the first picks that cover an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from .errors import PluginError
from .selection import Selection
from .similarity import unit_rows

ROUNDING = 1e-6  # largest error of a cosine distance in float32 that is allowed for
BLOCK = 64  # picks whose distances are computed together


@torch.no_grad()
def shortened(
    selection: Selection,
    features: Tensor,
    radius: float,
    at_least: int,
    adjust: Callable[[Selection], Selection] | None = None,
) -> Selection:
    """Return the first picks of a selection with which every dropped token is close to a kept one.

    Parameters
    ----------
    selection
        Of one image, with `order`: the picks, as many as may be kept.
    features
        (N, D) the rows whose cosine distances are measured.
    radius
        Largest distance of a dropped token to the nearest kept one.
    at_least
        Fewest picks to return, 1 to the number of picks.
    adjust
        Replaces some of the picks; the image is then covered by those that it returns.

    Returns
    -------
    Selection
        `capped` says that all picks do not cover the image; all of them are then returned.

    Raises
    ------
    PluginError
        If the selection has no `order`.
    """
    order = selection.order
    if order is None:
        raise PluginError(
            "the selector says that it picks tokens one by one (`nested`), but returned no `order`; "
            "return Selection.from_order(...), or let `nested` return False"
        )
    count = _first_covering(features, order, radius, at_least)
    for n in range(len(order) if count is None else count, len(order) + 1):
        picks = replace(selection, indices=order[:n].sort().values, order=order[:n])
        kept = picks if adjust is None else adjust(picks)
        is_covered = count is not None if kept is picks else covers(features, kept.indices, radius)
        if is_covered:
            return replace(kept, capped=False)
    return replace(kept, capped=True)


def covers(features: Tensor, slots: Tensor, radius: float) -> bool:
    """Return whether every row of (N, D) is within `radius` of a row at `slots` (K,), or one of them."""
    return _first_covering(features, slots, radius, len(slots)) is not None


def _first_covering(features: Tensor, order: Tensor, radius: float, at_least: int) -> int | None:
    """Return the smallest number of picks, `at_least` or more, that cover the rows; None if all do not."""
    n_before = 0
    for radii in _radii(features, order):
        is_covered = radii <= radius + ROUNDING
        is_covered[: max(0, at_least - 1 - n_before)] = False
        first = int(is_covered.byte().argmax())
        if bool(is_covered[first]):
            return n_before + first + 1
        n_before += len(radii)
    return None


def _radii(features: Tensor, order: Tensor) -> Iterator[Tensor]:
    """Yield the largest distance of a row (N, D) to its nearest pick, after each of a block of picks (b,)."""
    unit = unit_rows(features.detach())
    nearest = unit.new_full((len(unit), 1), torch.inf)
    for slots in torch.split(order, BLOCK):
        distances = (1 - unit @ unit[slots].mT).clamp_(min=0)  # (N, b)
        distances[slots, torch.arange(len(slots), device=slots.device)] = 0  # of a zero row too
        running = torch.cat([nearest, distances], 1).cummin(1).values[:, 1:]
        yield running.amax(0)
        nearest = running[:, -1:]
