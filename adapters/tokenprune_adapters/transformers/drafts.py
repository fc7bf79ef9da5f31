# SPDX-License-Identifier: Apache-2.0
"""Assisted decoding: keep the first drafts out of the call that reads the prompt.

Assisted decoding passes the first drafts together with the prompt. A method that reads the text, or cuts
inside the decoder, would choose by the drafts as well, and keep other tokens than without them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import stock
from .interposed import interpose


def keep_drafts_out(model: Any) -> Callable[[], None]:
    """Let each assisted `generate` of a model reject its first drafts; return a function that ends this.

    Rejecting them is always correct: the model then picks the token itself. Later drafts are unaffected.
    """
    name = stock.drafting_method(model)
    original = getattr(model, name)

    def checked(*args: Any, **kwargs: Any) -> Any:
        generator = original(*args, **kwargs)
        _reject_first(generator)
        return generator

    return interpose(model, name, checked)


def _reject_first(generator: Any) -> None:
    """Let a generator of drafts return none the first time; it still makes them, for its own state."""
    name = stock.drafts_of(generator)
    original = getattr(generator, name)

    def rejected(ids: Any, **kwargs: Any) -> tuple[Any, None]:
        undo()
        original(ids, **kwargs)
        return ids, None

    undo = interpose(generator, name, rejected)
