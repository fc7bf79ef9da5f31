# SPDX-License-Identifier: Apache-2.0
"""Continuous batching: its prompts are token ids, and images that come with them are ignored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tokenprune import UnsupportedCallError

from . import stock
from .interposed import interpose
from .undo import UndoStack


def refuse_images_in_batches(model: Any, tokens: Sequence[int]) -> Callable[[], None]:
    """Check prompts of continuous batching for images; return a function that removes the checks.

    `tokens` are the placeholders of images and videos. transformers ignores pixels here, and reads
    placeholders as text. Checked are calls of `generate_batch`, before any work, and single requests to
    managers that are made from now on.
    """
    undo, is_checked = UndoStack(), True
    batch, make = stock.batching_method(model), stock.manager_method(model)
    generate, manage = getattr(model, batch), getattr(model, make)

    def refuse(has_pixels: bool, prompts: Sequence[Sequence[int]]) -> None:
        if is_checked and (has_pixels or any(token in prompt for prompt in prompts for token in tokens)):
            raise UnsupportedCallError(
                "continuous batching (generate_batch, a manager, or cache_implementation='paged') reads no "
                "images: it would answer without them; use generate() with another cache for prompts with "
                "images"
            )

    def generate_checked(*args: Any, **kwargs: Any) -> Any:
        refuse(stock.brings_pixels(kwargs), stock.prompts_of_batch(args, kwargs))
        return generate(*args, **kwargs)

    def manage_checked(*args: Any, **kwargs: Any) -> Any:
        manager = manage(*args, **kwargs)
        name = stock.request_method(manager)
        add = getattr(manager, name)

        def add_checked(*args: Any, **kwargs: Any) -> Any:
            refuse(False, [stock.prompt_of_request(args, kwargs)])
            return add(*args, **kwargs)

        interpose(manager, name, add_checked)  # for as long as the manager lives
        return manager

    def end() -> None:
        nonlocal is_checked
        is_checked = False
        undo.run()

    try:
        undo.do(lambda: interpose(model, batch, generate_checked))
        undo.do(lambda: interpose(model, make, manage_checked))
    except BaseException:  # an interrupt between the two
        end()
        raise
    return end
