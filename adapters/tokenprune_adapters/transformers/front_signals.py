# SPDX-License-Identifier: Apache-2.0
"""The visual tokens a method gets to see between tower and language model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenprune import Projector, UnsupportedCallError, VisualTokens

from .call import Call
from .rows import Image

if TYPE_CHECKING:
    from .capture import Encoded
    from .vlm import TransformersAdapter


def projector_tokens(
    adapter: TransformersAdapter,
    call: Call,
    image: Image,
    encoded: Encoded,
    embeds: Tensor,
    ids: Tensor | None,
) -> VisualTokens:
    """One image's tokens between tower and language model; `ids` (B, L) is None where embeddings came."""
    row, number = image.span.row, image.span.number

    def text() -> Tensor:
        return text_after(call.images, image, lambda other: other.slots, embeds.shape[1], call.real)

    def text_ids() -> Tensor:
        if ids is None:
            raise UnsupportedCallError(
                "this method reads the question's token ids, but the call has only embeddings; pass input_ids"
            )
        return ids[row, text()]

    current = functools.cache(adapter.current_projector)  # reads all its weights: only for who asks
    features = embeds[row, image.slots]
    signals: dict[str, Any] = {
        "projector": Projector(lambda rows: current()(rows), lambda: current().linear_form()),
        "input_features": features,
        "text_embeds": lambda: embeds[row, text()],
        "text_ids": text_ids,
        **{name: _later(supply, encoded, number) for name, supply in adapter.image_signals().items()},
    }
    return VisualTokens(features, signals, image.layout)


def _later(supply: Callable[[Encoded, int], Any], encoded: Encoded, number: int) -> Callable[[], Any]:
    return lambda: supply(encoded, number)


def text_after(
    images: Sequence[Image], image: Image, places: Callable[[Image], Tensor], length: int, real: Tensor | None
) -> Tensor:
    """Where the row's text after an image stands, (T,); the row's last real token where there is no text.

    Parameters
    ----------
    images
        All images of the call.
    places
        Where an image's rows stand in a row of `length` tokens.
    real
        (B, L) which tokens are no padding; None: all.
    """
    device = places(image).device
    is_text = torch.ones(length, dtype=torch.bool, device=device)
    for other in images:
        if other.span.row == image.span.row:
            slots = places(other)
            is_text[slots] = False
            if slots.numel() and other is image:
                is_text[: int(slots.max()) + 1] = False
    here = None if real is None else real[image.span.row].to(device)
    if here is not None:
        is_text &= here
    after = is_text.nonzero().squeeze(1)
    if len(after):
        return after
    if here is not None and bool(here.any()):
        return here.nonzero()[-1]
    return torch.tensor([length - 1], device=device)
