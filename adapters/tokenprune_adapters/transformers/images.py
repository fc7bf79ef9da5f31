# SPDX-License-Identifier: Apache-2.0
"""Locate each image's tokens in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune import UnsupportedCallError


@dataclass(frozen=True)
class ImageSpan:
    """One image (or video) in one row: its index among the encoded images, and the slots of its tokens.

    `slots` (N,) ascend; they are not always contiguous, since a model may insert separators.
    """

    row: int
    number: int
    modality: str
    slots: Tensor


def locate(mask: Tensor, lengths: Sequence[int], modality: str) -> list[ImageSpan]:
    """Divide the visual tokens of a batch among the encoded images.

    Parameters
    ----------
    mask
        (B, L) True for visual tokens.
    lengths
        Number of tokens of each image, in the order of encoding. If `generate` repeated rows afterwards
        (beams, return sequences), each group of repeated rows shares its images.

    Raises
    ------
    UnsupportedCallError
        If the numbers of tokens do not match, as when a chunked prefill splits an image.
    """
    counts = mask.sum(1).tolist()
    total, encoded = sum(counts), sum(lengths)
    if encoded == 0 or total % encoded:
        raise UnsupportedCallError(
            f"{total} {modality} tokens in the prompt, {encoded} encoded: this prefill holds only part of an "
            "image (chunked prefill?); call generate with prefill_chunk_size=None"
        )
    repeats = total // encoded
    spans, number = [], 0
    for first in range(0, len(counts), repeats):
        group = range(first, min(first + repeats, len(counts)))
        start = number
        while sum(lengths[start:number]) < counts[first]:
            number += 1
        if any(counts[row] != sum(lengths[start:number]) for row in group):
            raise UnsupportedCallError(
                f"an image is split over rows of the batch ({counts} {modality} tokens per row, images of "
                f"{list(lengths)}); give each row whole images"
            )
        for row in group:
            slots = mask[row].nonzero().squeeze(1)
            parts = torch.split(slots, list(lengths[start:number])) if number > start else ()
            spans += [ImageSpan(row, start + i, modality, part) for i, part in enumerate(parts)]
    return spans
