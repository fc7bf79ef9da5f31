# SPDX-License-Identifier: Apache-2.0
"""Calls a pruned model cannot answer rightly, refused before the vision tower runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from tokenprune import UnsupportedCallError

from .cache import PrunedLayer
from .interposed import interpose


def refuse_chunked_prefill(model: Any, pixel_arguments: Sequence[str]) -> Callable[[], None]:
    """Look at the settings of each `generate` with images; return a function that stops looking.

    `generate(prefill_chunk_size=...)` hands the language model pieces of the prompt, and a budget per image
    cannot be kept on pieces of an image. The size is known once `generate` has merged its settings.
    """
    original = model._prepare_generation_config

    def looked_at(*args: Any, **kwargs: Any) -> Any:
        merged = original(*args, **kwargs)
        size = getattr(merged[0], "prefill_chunk_size", None)
        if size is not None and any(kwargs.get(name) is not None for name in pixel_arguments):
            raise UnsupportedCallError(
                f"prefill_chunk_size={size} would divide an image among chunks, where no budget of it can "
                "be kept on pieces; call generate with prefill_chunk_size=None"
            )
        return merged

    return interpose(model, "_prepare_generation_config", looked_at)


def refuse_planned_masks(given: Mapping[str, Any], brings_images: bool) -> None:
    """A four-dimensional mask is of the unpruned sequence; only generate's, for static caches, is known."""
    mask, cache = given.get("attention_mask"), given.get("past_key_values")
    if not isinstance(mask, Tensor) or mask.ndim != 4 or getattr(cache, "is_compileable", False):
        return
    if brings_images or any(isinstance(layer, PrunedLayer) for layer in getattr(cache, "layers", ())):
        raise UnsupportedCallError(
            "a pruned model takes a two-dimensional attention_mask (padding); a four-dimensional one "
            "says nothing about the rows that stay"
        )
