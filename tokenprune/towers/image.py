# SPDX-License-Identifier: Apache-2.0
"""Where the tokens of an image are among the rows of a vision tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..layout import Layout


@dataclass(frozen=True)
class TowerImage:
    """One image (or tile, or video) of one run of a tower.

    Attributes
    ----------
    rows
        (N, P) the tower's rows that each token is made of, as indices into its flattened rows; the tokens are
        in the order of the prompt.
    layout
        Where the tokens lie in the image.
    shown
        (N,) False for patches that show padding only, and are no tokens of the prompt; None if all are.
    full_tiles
        The largest number of tiles of an image, which divides a budget.
    """

    rows: Tensor
    layout: Layout
    shown: Tensor | None = None
    full_tiles: int = 1


def on_device(images: Sequence[TowerImage], device: torch.device) -> Sequence[TowerImage]:
    """Return images with their rows on a device, to which all rows are copied at once."""
    if not images or images[0].rows.device == device:
        return images
    together = torch.cat([image.rows for image in images]).to(device)
    rows = torch.split(together, [len(image.rows) for image in images])
    return [replace(image, rows=of_image) for image, of_image in zip(images, rows, strict=True)]
