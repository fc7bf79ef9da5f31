# SPDX-License-Identifier: Apache-2.0
"""Refusing a prefill in chunks before the vision tower runs.

`generate(prefill_chunk_size=...)` hands the language model pieces of the prompt, and a budget per image
cannot be kept on pieces of an image. The size is known once `generate` has merged its settings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tokenprune import UnsupportedCallError


def refuse_chunked_prefill(model: Any, pixel_arguments: Sequence[str]) -> Callable[[], None]:
    """Look at the settings of each `generate` with images; return a function that stops looking."""
    original = model._prepare_generation_config

    @functools.wraps(original)
    def looked_at(*args: Any, **kwargs: Any) -> Any:
        merged = original(*args, **kwargs)
        size = getattr(merged[0], "prefill_chunk_size", None)
        if size is not None and any(kwargs.get(name) is not None for name in pixel_arguments):
            raise UnsupportedCallError(
                f"prefill_chunk_size={size} would divide an image among chunks, where no budget of it can "
                "be kept on pieces; call generate with prefill_chunk_size=None"
            )
        return merged

    object.__setattr__(model, "_prepare_generation_config", looked_at)
    return lambda: object.__delattr__(model, "_prepare_generation_config")
