# SPDX-License-Identifier: Apache-2.0
"""Reconstruct pictures as the vision tower sees them (resized, cropped, tiled) from normalised pixels."""

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
        The processor that made the pixels; provides mean, standard deviation and scale.
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
    """Return the pictures of one image of a call, one for each panel.

    Parameters
    ----------
    image
        The image's report.
    inputs
        Output of the processor for the call.
    processor
        The processor of the call.

    Raises
    ------
    IncompatibleError
        When the inputs do not contain the image, or its shape does not match the layout.
    """
    is_video = image.modality == "video"
    pixels: Tensor | None = inputs.get("pixel_values_videos" if is_video else "pixel_values")
    image_processor = getattr(processor, "video_processor" if is_video else "image_processor", processor)
    if pixels is None:
        raise IncompatibleError(f"these inputs contain no {image.modality}; pass those of the reported call")
    if pixels.ndim == 2:
        views = _unpacked(pixels, inputs, image, image_processor)
    elif pixels.ndim == 5 and image.layout.tiles is not None:
        views = pixels[_index(image, len(pixels))][: len(image.layout.tile_grids)]
    elif pixels.ndim in (4, 5):
        if pixels.ndim == 5:  # rows of the batch with fewer views are padded with zeros
            pixels = pixels.flatten(0, 1)
            pixels = pixels[pixels.flatten(1).any(1)]
        views = pixels[_index(image, len(pixels))][None]
    else:
        raise IncompatibleError(f"pixels of shape {tuple(pixels.shape)} cannot be converted to pictures")
    image_panels = panels(image.layout)
    patch = views.shape[-2] / len(image_panels[0].slots)  # the first panel is a complete view
    return [seen_image(image_processor, _joined(views, panel, patch)) for panel in image_panels]


def _index(image: ImageReport, n: int) -> int:
    """Return the image's index among `n`, or raise if there are fewer."""
    if image.number >= n:
        raise IncompatibleError(
            f"these inputs contain {n} {image.modality}(s), but index {image.number} is to be drawn; pass "
            "the inputs of the reported call"
        )
    return image.number


def _unpacked(pixels: Tensor, inputs: Mapping[str, Any], image: ImageReport, image_processor: Any) -> Tensor:
    """Unpack patches (M, C p_t p p), grouped by merging, to views (t, C, H, W) of first frames."""
    grids: Tensor | None = inputs.get(f"{image.modality}_grid_thw")
    if grids is None:
        raise IncompatibleError(f"packed pixels require {image.modality}_grid_thw in the inputs")
    number, sizes = _index(image, len(grids)), grids.prod(1).tolist()
    t, h, w = grids[number].tolist()
    side, merge = image_processor.patch_size, image_processor.merge_size
    depth = image_processor.temporal_patch_size
    patches = torch.split(pixels, sizes)[number]
    parts = patches.view(t, h // merge, w // merge, merge, merge, -1, depth, side, side)[:, :, :, :, :, :, 0]
    return parts.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(t, -1, h * side, w * side)


def _joined(views: Tensor, panel: Panel, patch: float) -> Tensor:
    """Return the pixels (C, H, W) of a panel: its tiles side by side, without the patches of padding."""
    rows, columns = panel.tiles
    tiles = views[panel.first : panel.first + rows * columns]
    tiles = tiles.view(rows, columns, *tiles.shape[1:])
    canvas: Tensor = tiles.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    height, width = canvas.shape[1:]
    h, w = panel.slots.shape
    used_height, used_width = round(h * patch), round(w * patch)
    is_view = rows * columns == 1  # has no padding
    if (
        used_height > height
        or used_width > width
        or (is_view and (used_height, used_width) != (height, width))
    ):
        raise IncompatibleError(
            f"the layout has {h} x {w} patches, which do not fit the {height} x {width} pixels of the inputs"
        )
    top, left = (height - used_height) // 2, (width - used_width) // 2
    return canvas[:, top : top + used_height, left : left + used_width]
