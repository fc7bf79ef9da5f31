# SPDX-License-Identifier: Apache-2.0
"""Prune arguments of the language model that have a row for each token, besides its embeddings."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokenprune import UnsupportedCallError
from tokenprune.gather import take

from . import stock
from .calls import LanguageCall
from .plan import RowPlan


def prune_deepstack(language: LanguageCall, plan: RowPlan) -> None:
    """Prune the mask of visual tokens (B, L), and the rows (V, D) of them that single layers add."""
    mask = language.visual
    if mask is None:
        return
    number = (mask.flatten().cumsum(0) - 1).view_as(mask)  # index of each visual token in the batch
    kept = take(mask, plan.index) if plan.valid is None else take(mask, plan.index) & plan.valid
    rows = take(number, plan.index)[kept]
    language.visual = kept
    if language.added is not None:
        language.added = [features[rows.to(features.device)] for features in language.added]


def prune_layer_inputs(language: LanguageCall, plan: RowPlan) -> None:
    """Gather the kept tokens' inputs of single layers, (B, L, layers, d)."""
    if language.layer_inputs is not None:
        language.layer_inputs = take(language.layer_inputs, plan.index)


def prune_unknown(language: LanguageCall, plan: RowPlan) -> None:
    """Gather the kept rows of every unknown tensor with a row for each token, (1 or B, L, ...).

    Raises
    ------
    UnsupportedCallError
        For an unknown argument with tensors of any other shape.
    """
    batch, length = plan.slot.shape
    for name, value in language.rest.items():
        if name in stock.OF_THE_LOSS or not _holds_tensor(value):
            continue
        if not has_rows(value, batch, length):
            raise UnsupportedCallError(
                f"the language model was passed {name}, and it is not known how its tensors depend on the "
                "tokens; leave it out, remove the pruning for this call, or write an adapter for this model: "
                "docs/writing-an-adapter.md"
            )
        language.rest[name] = take(value, plan.index)


def prune_of_layers(arguments: dict[str, Any], plan: RowPlan) -> None:
    """Gather the kept rows of a decoder layer's further arguments with a row for each token, in place."""
    batch, length = plan.slot.shape
    for name, value in arguments.items():
        if has_rows(value, batch, length):
            arguments[name] = take(value, plan.index)


def has_rows(value: Any, batch: int, length: int) -> bool:
    """Whether a value is a tensor with a row for each of a batch's tokens, (1 or B, L, ...)."""
    return isinstance(value, Tensor) and value.shape[:2] in ((1, length), (batch, length))


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_holds_tensor, value))
    if isinstance(value, dict):
        return any(map(_holds_tensor, value.values()))
    return isinstance(value, Tensor) and value.ndim > 0
