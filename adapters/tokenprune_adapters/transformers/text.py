# SPDX-License-Identifier: Apache-2.0
"""Locate the text after an image, and the last token of its prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .call import Call
from .rows import Image


def text_after(images: Sequence[Image], image: Image, call: Call) -> Tensor:
    """Slots of the text tokens after an image, (T,); `last_token` if there are none."""
    prompt = _prompt(image, call)
    for other in images:
        if other.span.row == image.span.row:
            prompt[other.span.slots] = False
    after = _after(image, prompt).nonzero().squeeze(1)
    return after if len(after) else last_token(image, call)


def last_token(image: Image, call: Call) -> Tensor:
    """Slot of the last token, text or image, of the prompt that an image belongs to, (1,)."""
    return _prompt(image, call).nonzero()[-1]


def _after(image: Image, tokens: Tensor) -> Tensor:
    """Restrict a mask (L,) of a row's tokens to those after an image."""
    tokens = tokens.clone()
    tokens[: int(image.span.slots[-1]) + 1] = False
    return tokens


def _prompt(image: Image, call: Call) -> Tensor:
    """Mask (L,) of the tokens in the prompt of an image, including the image's own.

    Excludes padding, other packed sequences, and everything from the answer on: a choice that depended on the
    answer would differ from the choice in `generate`.
    """
    row, device = image.span.row, image.span.slots.device
    prompt = torch.ones(call.n_new, dtype=torch.bool, device=device)
    if call.real is not None:
        prompt &= call.real[row].to(device)
    if call.sequences is not None:
        numbers = call.sequences[row].to(device)
        prompt &= numbers == numbers[image.span.slots[-1]]
    if call.answers is not None:
        prompt &= _after(image, call.answers[row].to(device)).cumsum(0) == 0
    prompt[image.span.slots] = True
    return prompt
