# SPDX-License-Identifier: Apache-2.0
"""Assisted decoding: where it starts, and which drafts may come with the prompt.

It passes the first drafts together with the prompt. A method that reads the text, or cuts inside the decoder,
would choose by the drafts as well, and keep other tokens than without them. On a cache that is not empty it
passes all of the prompt, instead of what is new.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenprune import UnsupportedCallError

from . import stock
from .interposed import interpose


def guard_drafts(model: Any, reject_first: bool) -> Callable[[], None]:
    """Check each assisted `generate` of a model; return a function that removes the check.

    With `reject_first`, its first drafts are rejected, which is always correct: the model then picks the
    token itself. Later drafts are unaffected.
    """
    name = stock.drafting_method(model)
    original = getattr(model, name)

    def checked(*args: Any, **kwargs: Any) -> Any:
        _refuse_filled(stock.kv_of_drafting(original, args, kwargs))
        generator = original(*args, **kwargs)
        if reject_first:
            _reject_first(generator)
        return generator

    return interpose(model, name, checked)


def _refuse_filled(kv: Any) -> None:
    """Refuse a cache that is not empty, to which transformers would add the whole prompt again."""
    if kv is not None and int(stock.seen(kv)) > 0:
        raise UnsupportedCallError(
            "assisted decoding of transformers passes the whole prompt to a cache that already holds the "
            "start of it, and its tokens would be seen twice; call generate without drafts for this turn, or "
            "without the cache"
        )


def _reject_first(generator: Any) -> None:
    """Let a generator of drafts return none the first time; it still makes them, for its own state."""
    name = stock.drafts_of(generator)
    original = getattr(generator, name)

    def rejected(ids: Any, **kwargs: Any) -> tuple[Any, None]:
        undo()
        original(ids, **kwargs)
        return ids, None

    undo = interpose(generator, name, rejected)
