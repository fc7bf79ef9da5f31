# SPDX-License-Identifier: Apache-2.0
"""Choosing for several images by one method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .budget import Budget
from .errors import InputError
from .finite import refuse_not_finite
from .methods import Method
from .selection import Selection
from .stack import in_groups, selections_of, stack
from .tokens import VisualTokens


def select_all(
    method: Method, images: Sequence[VisualTokens], keeps: Sequence[int | Budget], layer: int | None = None
) -> list[Selection]:
    """Choose for several images as `method.select` does for each, equal ones together where it can.

    Parameters
    ----------
    method
        Images of equal layout, without tiles or time, and equal budgets are stacked if all its parts take
        stacks.
    keeps
        The budget of each image.
    """
    together = all(part.batched for part in method.parts)

    def key(number: int) -> Any:
        image, layout = images[number], images[number].layout
        plain = layout.tiles is None and layout.newlines is None and layout.grid[0] == 1
        if not together or not plain:
            return number
        return layout.grid, str(keeps[number]), image.features.dtype, image.features.device

    def choose(numbers: list[int]) -> list[Selection]:
        try:
            if len(numbers) == 1:
                return [method.select(images[numbers[0]], keeps[numbers[0]], layer=layer)]
            stacked = stack([images[number] for number in numbers])
            return selections_of(method.select(stacked, keeps[numbers[0]], layer=layer))
        except InputError:  # which of them is it?
            for number in numbers if len(images) > 1 else ():
                refuse_not_finite(images[number], f"image {number} (of {len(images)} that are pruned)")
            raise

    return in_groups(images, key, choose)
