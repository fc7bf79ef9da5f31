# SPDX-License-Identifier: Apache-2.0
"""Assisted decoding: where it starts, and which drafts may come with the prompt.

It passes the first drafts together with the prompt. A method that reads the text, or cuts inside the decoder,
would choose by the drafts as well, and keep other tokens than without them. On a cache that is not empty it
passes all of the prompt, instead of what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from tokenprune import BudgetError, Cut, IncompatibleError, UnsupportedCallError
from tokenprune.image_plan import plan_image

from . import stock
from .facts import VisionLanguageFacts
from .interposed import interpose


def guard_drafts(adapter: VisionLanguageFacts, cuts: Sequence[Cut], by_text: bool) -> Callable[[], None]:
    """Check each assisted `generate` of a model; return a function that removes the check.

    If the text decides (`by_text`) which tokens are dropped, and some may be, its first drafts are rejected.
    That is always correct: the model then picks the token itself. Later drafts are unaffected.
    """
    model = adapter.model
    name = stock.drafting_method(model)
    original = getattr(model, name)

    def checked(*args: Any, **kwargs: Any) -> Any:
        passed = stock.passed_on(original, args, kwargs)
        _refuse_filled(stock.kv_among(passed))
        generator = original(*args, **kwargs)
        if by_text and stock.brings_pixels(passed):
            _reject_first(generator, lambda ids: may_drop(adapter, cuts, ids))
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


def may_drop(adapter: VisionLanguageFacts, cuts: Sequence[Cut], ids: Tensor) -> bool:
    """Whether tokens may be dropped of the images of a prompt (B, L); True if it has no placeholders."""
    n = sum(int((ids == adapter.token_id(modality)).sum()) for modality in adapter.modalities)
    return n == 0 or any(_may_drop(adapter, cut, n) for cut in cuts)


def _may_drop(adapter: VisionLanguageFacts, cut: Cut, n: int) -> bool:
    """Whether a cut may drop any of n tokens, which may be those of several images."""
    depth = adapter.tower_depth if cut.method.stage == "vision" else len(adapter.layers)
    try:
        return plan_image(cut, n, depth).left_alone is None
    except (BudgetError, IncompatibleError):  # no plan for so many tokens
        return True


def _reject_first(generator: Any, drops: Callable[[Tensor], bool]) -> None:
    """Let a generator of drafts return none the first time, if tokens of the prompt may be dropped.

    It still makes them, as its own state depends on it.
    """
    name = stock.drafts_of(generator)
    original = getattr(generator, name)

    def rejected(ids: Tensor, **kwargs: Any) -> Any:
        undo()
        drafts = original(ids, **kwargs)
        return (ids, None) if drops(ids) else drafts

    undo = interpose(generator, name, rejected)
