# SPDX-License-Identifier: Apache-2.0
"""Calls a pruned model cannot answer rightly, refused before the vision tower runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from tokenprune import UnsupportedCallError

from . import stock
from .calls import LanguageCall, ModelCall
from .interposed import interpose
from .pruned_layer import PrunedLayer


def refuse_chunked_prefill(model: Any) -> Callable[[], None]:
    """Look at the settings of each `generate` with images; return a function that stops looking.

    `generate(prefill_chunk_size=...)` hands the language model pieces of the prompt, and a budget per image
    cannot be kept on pieces of an image. The size is known once `generate` has merged its settings.
    """
    name = stock.settings_method(model)
    original = getattr(model, name)

    def checked(*args: Any, **kwargs: Any) -> Any:
        merged = original(*args, **kwargs)
        size = stock.chunk_size(merged)
        if size is not None and stock.brings_pixels(kwargs):
            raise UnsupportedCallError(
                f"prefill_chunk_size={size} would divide an image among chunks, where no budget of it can "
                "be kept on pieces; call generate with prefill_chunk_size=None"
            )
        return merged

    return interpose(model, name, checked)


def refuse_planned_masks(call: ModelCall) -> None:
    """A four-dimensional mask is of the unpruned sequence; only generate's, for static caches, is known."""
    if not isinstance(call.mask, Tensor) or call.mask.ndim != 4 or stock.is_preallocated(call.kv):
        return
    if call.brings_images or any(isinstance(layer, PrunedLayer) for layer in stock.layers_of(call.kv)):
        raise UnsupportedCallError(
            "a pruned model takes a two-dimensional attention mask (padding); a four-dimensional one "
            "says nothing about the rows that stay"
        )


def refuse_unknown_rows(language: LanguageCall, batch: int, n_new: int) -> None:
    """An argument with a row for each of `n_new` tokens that nobody has cut would no longer fit the rows."""
    for name, value in language.rest.items():
        if isinstance(value, Tensor) and value.ndim > 1 and value.shape[:2] in ((1, n_new), (batch, n_new)):
            raise UnsupportedCallError(
                f"the language model was passed {name}, which has a row for each of {n_new} tokens, and "
                "tokenprune does not know how to cut it; leave it out, or remove the pruning for this call"
            )
