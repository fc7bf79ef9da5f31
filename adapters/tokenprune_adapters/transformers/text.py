# SPDX-License-Identifier: Apache-2.0
"""From where a method looks at an image: the text after it, and the last token of the prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .call import Call
from .rows import Image


def text_after(images: Sequence[Image], image: Image, call: Call) -> Tensor:
    """Which tokens of the row are text after an image, (T,); `last_token` where there is none."""
    prompt = _prompt(image, call)
    for other in images:
        if other.span.row == image.span.row:
            prompt[other.span.slots] = False
    after = _after(image, prompt).nonzero().squeeze(1)
    return after if len(after) else last_token(image, call)


def last_token(image: Image, call: Call) -> Tensor:
    """The last token of the prompt an image belongs to, whatever it is, (1,)."""
    return _prompt(image, call).nonzero()[-1]


def _after(image: Image, tokens: Tensor) -> Tensor:
    """Those of a row's tokens (L,) bool that come after an image."""
    tokens = tokens.clone()
    tokens[: int(image.span.slots[-1]) + 1] = False
    return tokens


def _prompt(image: Image, call: Call) -> Tensor:
    """Which tokens of the row belong to the prompt of an image, (L,) bool; the image's own do.

    No padding, none of another packed sequence, and nothing from the answer on that follows the image: a
    choice that depended on it would not be the one `generate` makes.
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
