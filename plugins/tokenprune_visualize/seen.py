# SPDX-License-Identifier: Apache-2.0
"""Pictures as the vision tower sees them: resized, cropped, tiled, brought back from normalised values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tokenprune import ImageReport, IncompatibleError

from .panels import Panel, panels


def seen_image(image_processor: Any, pixels: Tensor) -> Image.Image:
    """Undo an image processor's normalisation.

    Parameters
    ----------
    image_processor
        The one that made the pixels; its mean, deviation and scale are read.
    pixels
        (3, H, W), one view.
    """
    values = pixels.detach().float().cpu()
    if getattr(image_processor, "do_normalize", True):
        mean = torch.tensor(image_processor.image_mean)[:, None, None]
        deviation = torch.tensor(image_processor.image_std)[:, None, None]
        values = values * deviation + mean
    if getattr(image_processor, "do_rescale", True):
        values = values / image_processor.rescale_factor
    array = values.round().clamp(0, 255).permute(1, 2, 0).to(torch.uint8).numpy()
    return Image.fromarray(array)


def seen_pictures(image: ImageReport, inputs: Mapping[str, Any], processor: Any) -> list[Image.Image]:
    """Pictures of one image of a call, one for each of its panels.

    Parameters
    ----------
    image
        What the handle reports of it.
    inputs
        What the processor gave for that call.
    processor
        The one that gave it.

    Raises
    ------
    IncompatibleError
        When the inputs bring no such image, or its shape is not the layout's.
    """
    is_video = image.modality == "video"
    pixels: Tensor | None = inputs.get("pixel_values_videos" if is_video else "pixel_values")
    maker = getattr(processor, "video_processor" if is_video else "image_processor", processor)
    if pixels is None:
        raise IncompatibleError(f"these inputs bring no {image.modality}; give those of the reported call")
    if pixels.ndim == 2:
        views = _unpacked(pixels, inputs, image, maker)
    elif pixels.ndim == 5 and image.layout.tiles is not None:
        views = pixels[_of(image, len(pixels))][: len(image.layout.tile_grids)]
    elif pixels.ndim in (4, 5):
        if pixels.ndim == 5:  # rows of the batch with fewer pieces are filled up with zeros
            pixels = pixels.flatten(0, 1)
            pixels = pixels[pixels.flatten(1).any(1)]
        views = pixels[_of(image, len(pixels))][None]
    else:
        raise IncompatibleError(f"pixels of the shape {tuple(pixels.shape)} cannot be turned into pictures")
    found = panels(image.layout)
    patch = views.shape[-2] / len(found[0].slots)  # the first panel is a view of which nothing is missing
    return [seen_image(maker, _joined(views, panel, patch)) for panel in found]


def _of(image: ImageReport, n: int) -> int:
    """The image's number, where there are `n`."""
    if image.number >= n:
        raise IncompatibleError(
            f"these inputs bring {n} {image.modality}(s), and number {image.number} is to be drawn; give the "
            "inputs of the reported call"
        )
    return image.number


def _unpacked(pixels: Tensor, inputs: Mapping[str, Any], image: ImageReport, maker: Any) -> Tensor:
    """Packed patches (M, C p_t p p), merged ones together, as views (t, C, H, W): first frames."""
    grids: Tensor | None = inputs.get(f"{image.modality}_grid_thw")
    if grids is None:
        raise IncompatibleError(f"packed pixels need {image.modality}_grid_thw beside them in the inputs")
    number, sizes = _of(image, len(grids)), grids.prod(1).tolist()
    t, h, w = grids[number].tolist()
    side, merge, depth = maker.patch_size, maker.merge_size, maker.temporal_patch_size
    own = torch.split(pixels, sizes)[number]
    parts = own.view(t, h // merge, w // merge, merge, merge, -1, depth, side, side)[:, :, :, :, :, :, 0]
    return parts.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(t, -1, h * side, w * side)


def _joined(views: Tensor, panel: Panel, patch: float) -> Tensor:
    """Pixels (C, H, W) of a panel: its tiles side by side, without the patches that were cut off."""
    rows, columns = panel.tiles
    own = views[panel.first : panel.first + rows * columns]
    whole: Tensor = own.view(rows, columns, *own.shape[1:]).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    height, width = whole.shape[1:]
    h, w = panel.slots.shape
    high, wide = round(h * patch), round(w * patch)
    if high > height or wide > width or (rows * columns == 1 and (high, wide) != (height, width)):
        raise IncompatibleError(
            f"the layout says {h} x {w} patches, which do not fit the {height} x {width} pixels the model saw"
        )
    top, left = (height - high) // 2, (width - wide) // 2
    return whole[:, top : top + high, left : left + wide]
