# SPDX-License-Identifier: Apache-2.0
"""Draw the patches that a method kept, and the scores that it used.

After a call of a pruned model, in a notebook:

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
    """Draw the kept patches of an image in colour with a thin border, and the dropped ones faded to grey.

    Tiled images are drawn as two pictures side by side, the base view and the canvas of tiles; videos as one
    picture per temporal slice. Newline tokens and new rows are not drawn, because they are not patches.

    Parameters
    ----------
    reported
        A handle (for its last call), a report, or the report of one image.
    picture
        The input of the processor. It is stretched over the grid of patches, which is correct if the
        processor resizes, but not if it crops. A sequence holds one picture for each slice or view.
    inputs, processor
        Instead of `picture`: the output of the processor for the reported call, and the processor. The image
        is then drawn as the vision tower saw it.
    image
        Index of the image in the report.
    cell
        Side of a patch in the picture, in pixels; by default the longer side is about 384 pixels.
    axes
        Matplotlib axes on which the picture is drawn as well.

    Returns
    -------
    PIL.Image.Image
        The picture, which a notebook displays.

    Raises
    ------
    IncompatibleError
        When there is no report yet, the layout has no token positions, or the pictures do not match it.
    """
    image_report = reported_image(reported, image)
    kept_slots = None if image_report.kept is None else set(image_report.kept.tolist())

    def draw(panel: Panel, picture: Picture, cell: int) -> Image.Image:
        cells = None
        if kept_slots is not None:
            cells = [i for i, slot in enumerate(panel.slots.flatten().tolist()) if slot in kept_slots]
        return kept_picture(picture, _grid(panel), cells, cell)

    pictures = pictures_of(image_report, picture, inputs, processor)
    return _shown(_drawn(image_report, pictures, cell, draw), axes)


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
    """Draw the scores of an image's tokens as a heat map, with a colour bar.

    If a method cuts several times, the scores are those of the last cut; tokens that were dropped before have
    no score and are faded. Parameters are those of `kept`.

    Raises
    ------
    IncompatibleError
        As for `kept`; also when the image was left alone or the method chose without scores.
    """
    image_report = reported_image(reported, image)
    values = image_report.scores
    if values is None or not values.isfinite().any():
        reason = "its method does not use scores"
        if image_report.kept is None:
            reason = f"it was left alone ({image_report.note})"
        raise IncompatibleError(f"this image has no scores to draw: {reason}; `kept` draws what was kept")
    values = values.detach().float().cpu()
    token_scores = torch.full((len(image_report.layout),), torch.nan)
    slots = torch.arange(len(values)) if image_report.found is None else image_report.found.cpu()
    token_scores[slots[slots >= 0]] = values[slots >= 0]
    patches = torch.cat([panel.slots.flatten() for panel in panels(image_report.layout)])
    scored = patches[token_scores[patches].isfinite()]
    weights = torch.full_like(token_scores, torch.nan)
    weights[scored] = min_max(token_scores[scored])

    def draw(panel: Panel, picture: Picture, cell: int) -> Image.Image:
        return score_picture(picture, weights[panel.slots], cell)

    drawn = _drawn(image_report, pictures_of(image_report, picture, inputs, processor), cell, draw)
    return _shown(with_bar(drawn, token_scores[scored]), axes)


def _drawn(
    image_report: ImageReport,
    pictures: list[Picture],
    cell: int | None,
    draw: Callable[[Panel, Picture, int], Image.Image],
) -> Image.Image:
    """Draw every panel of an image on its picture."""
    image_panels = panels(image_report.layout)
    side = cell or min(cell_side(_grid(panel)) for panel in image_panels)
    drawn = [draw(panel, picture, side) for panel, picture in zip(image_panels, pictures, strict=True)]
    return drawn[0] if len(drawn) == 1 else in_rows(drawn)


def _grid(panel: Panel) -> tuple[int, int]:
    rows, columns = panel.slots.shape
    return rows, columns


def _shown(picture: Image.Image, axes: Any) -> Image.Image:
    """Draw the picture on matplotlib axes as well, if they are given."""
    if axes is not None:
        axes.imshow(np.asarray(picture))
        axes.set_axis_off()
    return picture
