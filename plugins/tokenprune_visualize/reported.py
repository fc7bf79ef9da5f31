# SPDX-License-Identifier: Apache-2.0
"""Reading the arguments: which image is to be drawn, and on which pictures."""

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
    """The image that is to be drawn."""
    if reported is not None and not isinstance(reported, Reported):
        raise IncompatibleError(
            f"give a handle, a report or an image's report, got {type(reported).__name__}; of a pruned model "
            "that is tokenprune.active_handle(model)"
        )
    if isinstance(number, bool) or not isinstance(number, int):
        raise IncompatibleError(f"image= is the number of an image of the report, got {number!r}")
    report = reported.last if isinstance(reported, PruningHandle) else reported
    if report is None:
        raise IncompatibleError("this handle has no report yet; run the pruned model with an image first")
    if isinstance(report, ImageReport):
        return report
    if not 0 <= number < len(report.images):
        raise IncompatibleError(f"image={number}, and the report is of {len(report.images)} image(s)")
    return report.images[number]


def pictures_of(
    one: ImageReport,
    picture: Picture | Sequence[Picture] | None,
    inputs: Mapping[str, Any] | None,
    processor: Any,
) -> list[Picture]:
    """One picture for each panel."""
    if (picture is None) == (inputs is None) or (inputs is None) != (processor is None):
        raise IncompatibleError("give either picture=, or inputs= together with processor=")
    if inputs is not None:
        return list(seen_pictures(one, inputs, processor))
    n = len(panels(one.layout))
    if isinstance(picture, (Image.Image, np.ndarray)):
        return [picture] * n
    if not isinstance(picture, (list, tuple)):
        raise IncompatibleError(
            f"a picture is a PIL image or a numpy array, got {type(picture).__name__}; open a file first: "
            "PIL.Image.open(path)"
        )
    several = list(picture)
    if len(several) != n:
        raise IncompatibleError(f"{len(several)} pictures were given, and this image is drawn as {n}")
    return several
