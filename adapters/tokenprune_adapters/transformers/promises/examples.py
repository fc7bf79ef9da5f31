# SPDX-License-Identifier: Apache-2.0
"""Random inputs for a model: a picture between text tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenprune import UnsupportedModelError

from .. import stock
from ..facts import VisionLanguageFacts
from .prompts import IDS, MASK, encode

BEFORE, AFTER = 5, 6  # number of text tokens before and after the picture


def text_tokens(config: Any, n: int, draw: torch.Generator) -> Tensor:
    """Draw token ids (n,) from the middle of the vocabulary, without special tokens."""
    size = stock.vocabulary_of(config)
    special = {value for name, value in vars(config).items() if name.endswith(("_id", "_index"))}
    plain = torch.tensor([token for token in range(size // 4, size // 2) if token not in special])
    return plain[torch.randint(0, len(plain), (n,), generator=draw)]


@torch.no_grad()
def example_inputs(adapter: VisionLanguageFacts, seed: int) -> dict[str, Tensor]:
    """Make one row with one picture, on the model's device.

    Raises
    ------
    UnsupportedModelError
        If the adapter makes no pictures for this model.
    """
    draw = torch.Generator().manual_seed(seed)
    picture = adapter.example_picture(draw)
    if picture is None:
        raise UnsupportedModelError(
            f"the adapter {adapter.name!r} makes no picture for {type(adapter.model).__name__}; give what "
            "the model is called with: check_model(model, inputs)"
        )
    device, dtype = stock.embedding_table(adapter.model).weight.device, adapter.model.dtype
    pixels = {
        stock.ARGUMENTS[word][0]: value.to(device, dtype if value.is_floating_point() else value.dtype)
        for word, value in picture.items()
    }
    n = sum(adapter.lengths(encode(adapter, pixels, "image")))
    config = adapter.model.config
    text = text_tokens(config, BEFORE + AFTER, draw)
    frame = [torch.tensor([token]) for token in adapter.picture_frame()]
    image = torch.full((n,), adapter.token_id("image"))
    begin, end = frame if frame else (image[:0], image[:0])
    ids = torch.cat([text[:BEFORE], begin, image, end, text[BEFORE:]])[None].to(device)
    return {IDS: ids, MASK: torch.ones_like(ids), **adapter.prompt_kinds(ids), **pixels}
