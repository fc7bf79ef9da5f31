# SPDX-License-Identifier: Apache-2.0
"""The picture that `tokenprune run --save` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL.Image import Image
from tokenprune_visualize import captioned, in_rows, kept

import tokenprune


def kept_picture(
    processor: Any, inputs: Mapping[str, Any], report: tokenprune.PruningReport, lines: Sequence[str]
) -> Image:
    """Draw the kept patches on the image as the model sees it: cropped, or cut into tiles."""
    pieces = [kept(image, inputs=inputs, processor=processor) for image in report.images]
    return captioned(pieces[0] if len(pieces) == 1 else in_rows(pieces), lines)
