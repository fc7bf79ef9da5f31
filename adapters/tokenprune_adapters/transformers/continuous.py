# SPDX-License-Identifier: Apache-2.0
"""Continuous batching: its prompts are token ids, and images that come with them are ignored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tokenprune import UnsupportedCallError

from . import stock
from .interposed import interpose
from .lease import Lease


def guard_batches(model: Any, tokens: Sequence[int]) -> Callable[[], None]:
    """Check each `generate_batch` of a model for images; return a function that removes the check.

    `tokens` are the placeholders of images and videos. transformers ignores pixels here, and reads
    placeholders as text.
    """
    name = stock.batching_method(model)
    generate = getattr(model, name)

    def checked(*args: Any, **kwargs: Any) -> Any:
        prompts = stock.first_argument(generate, args, kwargs)
        _refuse(stock.brings_pixels(kwargs), prompts, tokens)
        return generate(*args, **kwargs)

    return interpose(model, name, checked)


def guard_managers(model: Any, tokens: Sequence[int], lease: Lease) -> Callable[[], None]:
    """Check each request to managers that are made from now on, for as long as the lease is active."""
    name = stock.manager_method(model)
    make = getattr(model, name)

    def checked(*args: Any, **kwargs: Any) -> Any:
        manager = make(*args, **kwargs)
        request = stock.request_method(manager)
        add = getattr(manager, request)

        def add_checked(*args: Any, **kwargs: Any) -> Any:
            if lease.active:
                _refuse(False, [stock.first_argument(add, args, kwargs)], tokens)
            return add(*args, **kwargs)

        interpose(manager, request, add_checked)
        return manager

    return interpose(model, name, checked)


def _refuse(has_pixels: bool, prompts: Sequence[Sequence[int]], tokens: Sequence[int]) -> None:
    if has_pixels or any(token in prompt for prompt in prompts for token in tokens):
        raise UnsupportedCallError(
            "continuous batching (generate_batch, a manager, or cache_implementation='paged') reads no "
            "images: it would answer without them; use generate() with another cache for prompts with images"
        )
