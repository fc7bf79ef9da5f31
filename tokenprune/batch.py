# SPDX-License-Identifier: Apache-2.0
"""Select the tokens of several images with one method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .budget import Budget
from .errors import InputError
from .finite import refuse_not_finite
from .methods import Method
from .selection import Selection
from .stack import image_of, in_groups, stack
from .tokens import VisualTokens


def select_all(
    method: Method, images: Sequence[VisualTokens], keeps: Sequence[int | Budget], layer: int | None = None
) -> list[Selection]:
    """Return `method.select` of each image, computed in stacks where possible.

    Parameters
    ----------
    method
        If all its parts take stacks, images of equal layout and budget are stacked, except for tiled
        images and videos.
    keeps
        The budget of each image.
    """
    can_stack = all(part.stacks for part in method.parts)

    def key(number: int) -> Any:
        image, layout = images[number], images[number].layout
        if not can_stack or not layout.is_plain:
            return number
        return layout.grid, str(keeps[number]), image.features.dtype, image.features.device

    def choose(numbers: list[int]) -> list[Selection]:
        try:
            if len(numbers) == 1:
                return [method.select(images[numbers[0]], keeps[numbers[0]], layer=layer)]
            stacked = stack([images[number] for number in numbers])
            return method.select_stack(stacked, keeps[numbers[0]], layer=layer)
        except InputError:
            _refuse_by_number([images[number] for number in numbers], numbers, len(images))
            raise

    return in_groups(images, key, choose)


def select_each(
    method: Method,
    tokens: VisualTokens,
    keep: int | Budget,
    numbers: Sequence[int],
    n_images: int,
    layer: int | None = None,
) -> list[Selection]:
    """Return `method.select` of each image of a stack, computed together if all parts take stacks.

    Parameters
    ----------
    numbers, n_images
        Numbers of the images, among all that are pruned, to name them in errors.
    """
    images = range(len(tokens.features))
    try:
        if len(images) > 1 and all(part.stacks for part in method.parts):
            return method.select_stack(tokens, keep, layer=layer)
        return [method.select(image_of(tokens, index), keep, layer=layer) for index in images]
    except InputError:
        _refuse_by_number([image_of(tokens, index) for index in images], numbers, n_images)
        raise


def _refuse_by_number(images: Sequence[VisualTokens], numbers: Sequence[int], n_images: int) -> None:
    """Raise an error that names the first image whose rows are not finite, if it is one of several."""
    if n_images > 1:
        for image, number in zip(images, numbers, strict=True):
            refuse_not_finite(image, f"image {number} (of {n_images} that are pruned)")
