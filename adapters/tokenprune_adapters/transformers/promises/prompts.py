# SPDX-License-Identifier: Apache-2.0
"""Split a batch of model inputs into rows, and join rows into a padded batch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tokenprune import UnsupportedCallError

from .. import stock
from ..facts import VisionLanguageFacts
from ..images import ImageSpan, locate

N_LONGER = 3  # additional text tokens of the row that makes padding necessary
IDS, MASK, PIXELS, PATCH_GRIDS, POOLED = (
    stock.ARGUMENTS[word][0] for word in ("ids", "mask", "images", "patch_grids", "pooled_patches")
)


def checked(adapter: VisionLanguageFacts, inputs: Any) -> dict[str, Any]:
    """Validate model inputs, and add a mask if there is none.

    Raises
    ------
    UnsupportedCallError
        If these are not model inputs, or have no image.
    """
    ids = inputs.get(IDS) if isinstance(inputs, Mapping) else None
    if not isinstance(ids, Tensor) or ids.ndim != 2:
        raise UnsupportedCallError(
            f"inputs must be the model's arguments, a mapping with {IDS} of shape (rows, tokens), as "
            f"processor(..., return_tensors='pt') returns it; got {type(inputs).__name__}"
        )
    if not any(bool((ids == adapter.token_id(modality)).any()) for modality in adapter.modalities):
        raise UnsupportedCallError(
            "there is no visual token in these inputs, so nothing can be pruned; give a prompt with an image"
        )
    completed = dict(inputs)
    completed.setdefault(MASK, torch.ones_like(ids))
    return completed


def encode(adapter: VisionLanguageFacts, inputs: Mapping[str, Any], modality: str) -> Any:
    """Encode the images or videos with the inner model."""
    encoder = getattr(adapter.inner, stock.encoder_name(modality))
    accepted = inspect.signature(encoder).parameters
    arguments = {name: value for name, value in inputs.items() if name in accepted}
    config = adapter.model.config
    for name, parameter in accepted.items():  # settings that the model passes on, Llama 4's before 5.20
        if name not in arguments and parameter.default is parameter.empty:
            for holder in (config, getattr(config, "vision_config", None)):
                if hasattr(holder, name):
                    arguments[name] = getattr(holder, name)
    return stock.features_of(encoder(**arguments))


def spans_of(adapter: VisionLanguageFacts, inputs: Mapping[str, Any]) -> list[ImageSpan]:
    """Locate the images and videos of a batch: all images, then all videos."""
    spans: list[ImageSpan] = []
    for modality in adapter.modalities:
        pixels = stock.argument_name(stock.pixel_word(modality))
        if adapter.shares_placeholders and pixels not in inputs:
            continue
        mask = inputs[IDS] == adapter.token_id(modality)
        if bool(mask.any()):
            spans += locate(mask, adapter.lengths(encode(adapter, inputs, modality)), modality)
    return spans


def rows_of(adapter: VisionLanguageFacts, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Split a batch into rows, without padding and without the other rows' images.

    Raises
    ------
    UnsupportedCallError
        If an input cannot be assigned to rows.
    """
    spans, n_rows = spans_of(adapter, inputs), len(inputs[IDS])
    rows = []
    for row in range(n_rows):
        real = inputs[MASK][row].bool()
        alone: dict[str, Any] = {}
        for name, value in inputs.items():
            if not isinstance(value, Tensor) or value.ndim == 0:
                alone[name] = value
            elif value.shape[:2] == inputs[IDS].shape:
                alone[name] = value[row : row + 1, real]
            else:
                entries = _of_row(adapter, inputs, spans, name, row)
                if entries.numel():
                    alone[name] = value.index_select(_axis_of(name, inputs), entries.to(value.device))
        rows.append(_renumbered(alone))
    return rows


def _of_row(
    adapter: VisionLanguageFacts, inputs: Mapping[str, Any], spans: Sequence[ImageSpan], name: str, row: int
) -> Tensor:
    """Indices, along the axis of an input that holds a batch's images, of what belongs to a row."""
    n_rows, size = len(inputs[IDS]), inputs[name].shape[_axis_of(name, inputs)]
    modality = "video" if name in _OF_VIDEOS or stock.ARGUMENTS["videos"][0] in name else "image"
    of_kind = [span for span in spans if span.modality == modality]
    numbers = torch.tensor([span.number for span in of_kind if span.row == row], dtype=torch.long)
    if adapter.rows_first and size == n_rows:
        return torch.tensor([row] if len(numbers) else [], dtype=torch.long)
    for counts in _entries_of_images(inputs, of_kind, modality):
        if sum(counts) and size % sum(counts) == 0 and (_is_wide(name, inputs) or size == sum(counts)):
            each = size // sum(counts)
            entries = torch.split(torch.arange(size), [count * each for count in counts])
            return torch.cat([entries[number] for number in numbers] or [torch.arange(0)])
    if size == n_rows:
        return torch.tensor([row])
    n_images = len({span.number for span in of_kind})
    raise UnsupportedCallError(
        f"the input {name} of shape {tuple(inputs[name].shape)} cannot be split into {n_rows} row(s) with "
        f"{n_images} {modality}(s), to run each row alone; give one row, or leave it out"
    )


def _entries_of_images(
    inputs: Mapping[str, Any], spans: Sequence[ImageSpan], modality: str
) -> Iterator[list[int]]:
    """How many entries each image may have in an input: one, its patches, its tokens or its local views."""
    images = {span.number: len(span.slots) for span in spans}
    grids = inputs.get(stock.ARGUMENTS[f"{modality}_grids"][0], inputs.get(PATCH_GRIDS))
    if grids is not None:
        yield grids.prod(1).tolist()
    yield [1] * len(images)
    local = inputs.get(stock.ARGUMENTS["local_counts"][0])
    if local is not None:
        yield torch.as_tensor(local).tolist()
    yield [images[number] for number in sorted(images)]


_OF_VIDEOS = (stock.ARGUMENTS["video_grids"][0],)


def _is_wide(name: str, inputs: Mapping[str, Any]) -> bool:
    """Whether an input holds the patches of all images side by side, along its last axis."""
    return PATCH_GRIDS in inputs and name == PIXELS


def _axis_of(name: str, inputs: Mapping[str, Any]) -> int:
    """The axis of an input along which the images of a batch stand."""
    return -1 if _is_wide(name, inputs) else 0


def _renumbered(row: dict[str, Any], first: int = 0) -> dict[str, Any]:
    """Count the patches that are pooled from the first one of a row, or from a given number on."""
    pooled = row.get(POOLED)
    if pooled is None:
        return row
    real = pooled >= 0
    n_patches = row[PIXELS].shape[-2]
    begin = int(pooled[real].min()) // n_patches * n_patches
    return {**row, POOLED: torch.where(real, pooled - begin + first, pooled)}


def longer(adapter: VisionLanguageFacts, row: Mapping[str, Any]) -> dict[str, Any]:
    """Extend a row by repeating its last text token."""
    ids = row[IDS][0]
    is_text = torch.ones_like(ids, dtype=torch.bool)
    for modality in adapter.modalities:
        is_text &= ids != adapter.token_id(modality)
    last = int(is_text.nonzero()[-1])
    columns = torch.cat([torch.arange(len(ids)), torch.full((N_LONGER,), last)]).to(ids.device)
    return {name: value[:, columns] if _is_per_token(value, ids) else value for name, value in row.items()}


def _is_per_token(value: Any, ids: Tensor) -> bool:
    return isinstance(value, Tensor) and value.ndim >= 2 and tuple(value.shape[:2]) == (1, len(ids))


def joined(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join rows into a batch, padded on the left; pictures are padded at their ends to equal size."""
    width = max(row[IDS].shape[1] for row in rows)
    rows = _numbered_through(rows)
    batch: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        having = [row for row in rows if name in row]
        values = [row[name] for row in having]
        if not isinstance(values[0], Tensor) or values[0].ndim == 0:
            batch[name] = values[0]
        elif _is_per_token(rows[0].get(name), rows[0][IDS][0]):
            batch[name] = torch.cat([_to_width(value, width) for value in values])
        elif _is_wide(name, having[0]):
            batch[name] = torch.cat(values, _axis_of(name, having[0]))
        else:
            batch[name] = torch.cat(_to_equal_shapes(values))
    return batch


def _numbered_through(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Count the patches that are pooled through all rows."""
    numbered, n = [], 0
    for row in rows:
        numbered.append(_renumbered(dict(row), n))
        if POOLED in row:
            n += row[PIXELS].shape[:-1].numel()
    return numbered


def joined_for(adapter: VisionLanguageFacts, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Like `joined`, with blank pictures for rows without images if the model needs an entry per row."""
    if adapter.rows_first:
        names = {name for row in rows for name in row}
        patterns = {name: next(row[name] for row in rows if name in row) for name in names}
        rows = [
            {**{k: torch.zeros_like(v) for k, v in patterns.items() if k not in row}, **row} for row in rows
        ]
    return joined(rows)


def _to_width(value: Tensor, width: int) -> Tensor:
    """Pad tokens (1, L, ...) with zeros on the left."""
    filler = value.new_zeros(1, width - value.shape[1], *value.shape[2:])
    return torch.cat([filler, value], 1)


def _to_equal_shapes(values: Sequence[Tensor]) -> list[Tensor]:
    most = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    padded = []
    for value in values:
        pads = [(0, target - size) for target, size in zip(most, value.shape[1:], strict=True)]
        padded.append(torch.nn.functional.pad(value, [n for pair in reversed(pads) for n in pair]))
    return padded
