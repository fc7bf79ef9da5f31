# SPDX-License-Identifier: Apache-2.0
"""Parse the arguments: the image to draw, and its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tokenprune import ImageReport, IncompatibleError, PruningHandle, PruningReport

from .drawing import Picture
from .panels import panels
from .seen import seen_pictures

Reported = PruningHandle | PruningReport | ImageReport


def reported_image(reported: Reported, number: int) -> ImageReport:
    """Return the report of the image to draw."""
    if reported is not None and not isinstance(reported, Reported):
        raise IncompatibleError(
            f"expected a handle, a report or an image's report, got {type(reported).__name__}; the handle of "
            "a pruned model is tokenprune.active_handle(model)"
        )
    if isinstance(number, bool) or not isinstance(number, int):
        raise IncompatibleError(f"image= must be the index of an image in the report, got {number!r}")
    report = reported.last if isinstance(reported, PruningHandle) else reported
    if report is None:
        raise IncompatibleError("this handle has no report yet; run the pruned model with an image first")
    if isinstance(report, ImageReport):
        return report
    if not 0 <= number < len(report.images):
        raise IncompatibleError(f"image={number}, but the report has {len(report.images)} image(s)")
    return report.images[number]


def pictures_of(
    image_report: ImageReport,
    picture: Picture | Sequence[Picture] | None,
    inputs: Mapping[str, Any] | None,
    processor: Any,
) -> list[Picture]:
    """Return one picture for each panel."""
    if (picture is None) == (inputs is None) or (inputs is None) != (processor is None):
        raise IncompatibleError("give either picture=, or inputs= together with processor=")
    if inputs is not None:
        return list(seen_pictures(image_report, inputs, processor))
    n = len(panels(image_report.layout))
    if isinstance(picture, (Image.Image, np.ndarray)):
        return [picture] * n
    if not isinstance(picture, (list, tuple)):
        raise IncompatibleError(
            f"a picture must be a PIL image or a numpy array, got {type(picture).__name__}; open files with "
            "PIL.Image.open(path)"
        )
    pictures = list(picture)
    if len(pictures) != n:
        raise IncompatibleError(f"{len(pictures)} pictures were given, but this image is drawn as {n}")
    return pictures
