# SPDX-License-Identifier: Apache-2.0
"""The visual tokens that a method reads between the projector and the language model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from tokenprune import Projector, UnsupportedCallError, VisualTokens

from .call import Call
from .encoded import Encoded
from .facts import VisionLanguageFacts
from .rows import Image
from .text import text_after
from .tower.received import signals_of


def tokens_before_language(
    adapter: VisionLanguageFacts,
    call: Call,
    image: Image,
    encoded: Encoded,
    embeds: Tensor,
    ids: Tensor | None,
) -> VisualTokens:
    """Return one image's visual tokens before the language model; `ids` (B, L), None without input ids.

    After a cut inside the vision tower, these are the survivors.
    """
    row, number = image.span.row, image.span.number

    def text() -> Tensor:
        return text_after(call.images, image, call)

    def text_ids() -> Tensor:
        if ids is None:
            raise UnsupportedCallError(
                "this method reads the question's token ids, but the call has only embeddings; pass input_ids"
            )
        return ids[row, text()]

    current = functools.cache(adapter.current_projector)  # reads all weights, so only on demand
    features = embeds[row, image.span.slots]
    adapter.check_placed(features, encoded, number)
    signals: dict[str, Any] = {
        "projector": Projector(lambda rows: current()(rows), lambda: current().linear_form()),
        "input_features": features,
        "text_embeds": lambda: embeds[row, text()],
        "text_ids": text_ids,
        **{name: _lazy(supply, encoded, number) for name, supply in adapter.image_signals().items()},
        **signals_of(adapter, encoded, number),
    }
    tokens = VisualTokens(features, signals, image.layout)
    return tokens.among(image.origin) if image.tower_cuts else tokens


def _lazy(supply: Callable[[Encoded, int], Any], encoded: Encoded, number: int) -> Callable[[], Any]:
    return lambda: supply(encoded, number)
