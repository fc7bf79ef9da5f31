# SPDX-License-Identifier: Apache-2.0
"""Continuous batching: its prompts are token ids, and images that come with them are ignored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tokenprune import UnsupportedCallError

from . import stock
from .interposed import interpose


def refuse_images_in_batches(model: Any, tokens: Sequence[int]) -> Callable[[], None]:
    """Check each `generate_batch` of a model for images; return a function that removes the check.

    `tokens` are the placeholders of images and videos. transformers ignores pixels here, and reads
    placeholders as text.
    """
    name = stock.batching_method(model)
    original = getattr(model, name)

    def checked(*args: Any, **kwargs: Any) -> Any:
        prompts = stock.prompts_of_batch(args, kwargs)
        if stock.brings_pixels(kwargs) or any(token in prompt for prompt in prompts for token in tokens):
            raise UnsupportedCallError(
                "continuous batching (generate_batch, or cache_implementation='paged') reads no images: it "
                "would answer without them; use generate() with another cache for prompts with images"
            )
        return original(*args, **kwargs)

    return interpose(model, name, checked)
