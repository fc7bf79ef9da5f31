# SPDX-License-Identifier: Apache-2.0
"""Pictures of what a method kept, and of the scores it chose by.

One line in a notebook, once a pruned model has run:

    tokenprune_visualize.kept(handle, photo)
    tokenprune_visualize.scores(handle, inputs=inputs, processor=processor)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from tokenprune import ImageReport, IncompatibleError
from tokenprune.functional import min_max

from .drawing import Picture, cell_side, kept_picture, score_picture, with_bar
from .panels import Panel, panels
from .reported import Reported, pictures_of, reported_image
from .seen import seen_image, seen_pictures
from .sheets import captioned, in_rows, sheet

__all__ = [
    "Panel",
    "captioned",
    "in_rows",
    "kept",
    "kept_picture",
    "panels",
    "score_picture",
    "scores",
    "seen_image",
    "seen_pictures",
    "sheet",
]


def kept(
    reported: Reported,
    picture: Picture | Sequence[Picture] | None = None,
    *,
    inputs: Mapping[str, Any] | None = None,
    processor: Any = None,
    image: int = 0,
    cell: int | None = None,
    axes: Any = None,
) -> Image.Image:
    """Draw what was kept of one image: kept patches clear with a thin border, dropped ones faded to grey.

    Tiled images become two pictures side by side, the base view and the canvas of tiles; videos one picture a
    temporal slice. Newline tokens and rows that were made are not drawn, they stand for no patch.

    Parameters
    ----------
    reported
        A handle (its last call), a report, or one image's report.
    picture
        What was given to the processor; it is stretched over the grid of patches, which is right where the
        processor resizes, not where it crops. A sequence holds one picture for each slice, or view.
    inputs, processor
        Instead of `picture`: what the processor gave for the reported call, and the processor. What is drawn
        then is what the vision tower saw, whatever the processor did.
    image
        Which image of the report.
    cell
        Side of a patch in the picture, in pixels; by default the longest side is about 384 pixels.
    axes
        Matplotlib axes to draw the picture on too.

    Returns
    -------
    PIL.Image.Image
        The picture, which a notebook shows.

    Raises
    ------
    IncompatibleError
        When nothing was reported yet, the layout does not say where tokens lie, or the pictures do not fit.
    """
    one = reported_image(reported, image)
    held = None if one.kept is None else set(one.kept.tolist())

    def draw(panel: Panel, picture: Picture, cell: int) -> Image.Image:
        cells = (
            None if held is None else [i for i, s in enumerate(panel.slots.flatten().tolist()) if s in held]
        )
        return kept_picture(picture, _grid(panel), cells, cell)

    return _shown(_drawn(one, pictures_of(one, picture, inputs, processor), cell, draw), axes)


def scores(
    reported: Reported,
    picture: Picture | Sequence[Picture] | None = None,
    *,
    inputs: Mapping[str, Any] | None = None,
    processor: Any = None,
    image: int = 0,
    cell: int | None = None,
    axes: Any = None,
) -> Image.Image:
    """Draw the scores one image's tokens were chosen by as a heat map, with a bar of lowest to highest.

    Where a method cuts several times these are the last cut's; tokens dropped before it have none and are
    faded. Parameters as for `kept`.

    Raises
    ------
    IncompatibleError
        As for `kept`; also when the image was left alone or the method chose without scores.
    """
    one = reported_image(reported, image)
    values = one.scores
    if values is None or not values.isfinite().any():
        why = f"it was left alone ({one.note})" if one.kept is None else "its method has no opinion on tokens"
        raise IncompatibleError(f"there are no scores of this image to draw: {why}; `kept` draws the choice")
    values = values.detach().float().cpu()
    every = torch.full((len(one.layout),), torch.nan)
    found = torch.arange(len(values)) if one.found is None else one.found.cpu()
    every[found[found >= 0]] = values[found >= 0]
    where = panels(one.layout)
    patches = torch.cat([panel.slots.flatten() for panel in where])
    scored = patches[every[patches].isfinite()]
    weights = torch.full_like(every, torch.nan)
    weights[scored] = min_max(every[scored])

    def draw(panel: Panel, picture: Picture, cell: int) -> Image.Image:
        return score_picture(picture, weights[panel.slots], cell)

    drawn = _drawn(one, pictures_of(one, picture, inputs, processor), cell, draw)
    return _shown(with_bar(drawn, every[scored]), axes)


def _drawn(
    one: ImageReport,
    pictures: list[Picture],
    cell: int | None,
    draw: Callable[[Panel, Picture, int], Image.Image],
) -> Image.Image:
    """All panels of an image, each drawn on its picture."""
    where = panels(one.layout)
    side = cell or min(cell_side(_grid(panel)) for panel in where)
    done = [draw(panel, picture, side) for panel, picture in zip(where, pictures, strict=True)]
    return done[0] if len(done) == 1 else in_rows(done)


def _grid(panel: Panel) -> tuple[int, int]:
    rows, columns = panel.slots.shape
    return rows, columns


def _shown(picture: Image.Image, axes: Any) -> Image.Image:
    """Put the picture on matplotlib axes as well, where some are given."""
    if axes is not None:
        axes.imshow(np.asarray(picture))
        axes.set_axis_off()
    return picture
