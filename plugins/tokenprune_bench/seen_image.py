# SPDX-License-Identifier: Apache-2.0
"""The picture as the vision tower sees it: resized, cropped, and brought back from normalised values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image


def seen_image(image_processor: Any, pixels: torch.Tensor) -> Image.Image:
    """Undo an image processor's normalisation.

    Parameters
    ----------
    image_processor
        The one that made the pixels; its mean, deviation and scale are read.
    pixels
        (3, S, S), one view.
    """
    values = pixels.detach().float().cpu()
    if getattr(image_processor, "do_normalize", True):
        mean = torch.tensor(image_processor.image_mean)[:, None, None]
        deviation = torch.tensor(image_processor.image_std)[:, None, None]
        values = values * deviation + mean
    if getattr(image_processor, "do_rescale", True):
        values = values / image_processor.rescale_factor
    array = values.round().clamp(0, 255).permute(1, 2, 0).numpy().astype(np.uint8)
    return Image.fromarray(array)
