# SPDX-License-Identifier: Apache-2.0
"""Split a batch of model inputs into rows, and join rows into a padded batch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tokenprune import UnsupportedCallError

from .. import stock
from ..facts import VisionLanguageFacts
from ..images import ImageSpan, locate

N_LONGER = 3  # additional text tokens of the row that makes padding necessary
IDS, MASK = stock.ARGUMENTS["ids"][0], stock.ARGUMENTS["mask"][0]


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
    return stock.features_of(encoder(**{k: v for k, v in inputs.items() if k in accepted}))


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
                    alone[name] = value[entries]
        rows.append(alone)
    return rows


def _of_row(
    adapter: VisionLanguageFacts, inputs: Mapping[str, Any], spans: Sequence[ImageSpan], name: str, row: int
) -> Tensor:
    """Indices, along the first axis of an input, of the entries that belong to a row."""
    n_rows, size = len(inputs[IDS]), len(inputs[name])
    modality = "video" if name in _OF_VIDEOS or stock.ARGUMENTS["videos"][0] in name else "image"
    of_kind = [span for span in spans if span.modality == modality]
    numbers = torch.tensor([span.number for span in of_kind if span.row == row], dtype=torch.long)
    n_images = len({span.number for span in of_kind})
    grids = inputs.get(stock.ARGUMENTS[f"{modality}_grids"][0])
    if adapter.rows_first and size == n_rows:
        return torch.tensor([row] if len(numbers) else [], dtype=torch.long)
    if grids is not None and size == int(grids.prod(1).sum()) and size != len(grids):
        patches = torch.split(torch.arange(size), grids.prod(1).tolist())
        return torch.cat([patches[number] for number in numbers] or [torch.arange(0)])
    if size == n_images:
        return numbers
    if size == n_rows:
        return torch.tensor([row])
    raise UnsupportedCallError(
        f"the input {name} of shape {tuple(inputs[name].shape)} cannot be split into {n_rows} row(s) with "
        f"{n_images} {modality}(s), to run each row alone; give one row, or leave it out"
    )


_OF_VIDEOS = (stock.ARGUMENTS["video_grids"][0],)


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
    batch: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if name in row]
        if not isinstance(values[0], Tensor) or values[0].ndim == 0:
            batch[name] = values[0]
        elif _is_per_token(rows[0].get(name), rows[0][IDS][0]):
            batch[name] = torch.cat([_to_width(value, width) for value in values])
        else:
            batch[name] = torch.cat(_to_equal_shapes(values))
    return batch


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
