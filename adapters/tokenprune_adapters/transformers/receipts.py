# SPDX-License-Identifier: Apache-2.0
"""Check that each pruned call followed its plan, by lengths only, without synchronising the device.

A version of transformers that renames, moves or stores something differently could give wrong answers without
an error. The arguments, stored tokens and outputs of a call are therefore compared with its plan.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tokenprune import ReceiptError

from . import stock
from .call import Call
from .calls import LanguageCall
from .pruned_layer import PrunedLayer, stored_length


def broken(what: str) -> ReceiptError:
    """Build the error for a call that did not follow its plan."""
    return ReceiptError(
        f"a pruned call did not go as planned: {what}. Do not use its answer. transformers "
        f"{stock.installed_version()} is installed, {stock.tested_range()} was tested: remove the pruning, "
        "install a tested version, and report this with the model's class"
    )


def check_rows(where: str, rows: Tensor, planned: int) -> None:
    """Check that rows (B, P, D) have the planned length."""
    if rows.shape[1] != planned:
        raise broken(f"{where} has {rows.shape[1]} rows per sequence, {planned} were planned")


def check_output(call: Call, rows: Tensor, planned: int) -> None:
    """Check the number of rows that the language model returns: all that are left, or the last ones."""
    if call.last_rows is None or rows.shape[1] != min(planned, call.last_rows):
        check_rows("the language model's output", rows, planned)


def check_passed(language: LanguageCall, kv_class: type) -> None:
    """Check that the language model is not passed a cache as an unknown argument."""
    for name, value in language.rest.items():
        if isinstance(value, kv_class):
            raise broken(f"the language model was passed a cache as the unknown argument {name}")


def check_positions(call: Call, positions: Tensor) -> None:
    """Check that there is a position for each row that entered the language model."""
    assert call.entered is not None
    if positions.shape[-1] != call.entered.shape[1]:
        raise broken(
            f"the rotary embedding got {positions.shape[-1]} positions for {call.entered.shape[1]} rows"
        )


def check_returned(call: Call, language: Any, kv: Any) -> None:
    """Check that the call returned its cache, and did not use a pruned cache unnoticed."""
    uses_cache = call.caching or (call.kv is not None and call.caching is None)
    if kv is None and uses_cache and not language.training:
        raise broken("a call with a cache returned none")
    layers = stock.layers_of(kv)
    if call.kv is None and any(isinstance(layer, PrunedLayer) for layer in layers):
        raise broken("a pruned cache was used by a call that seemed to have no cache")
    if call.front is not None and not call.rotates:
        raise broken("the rotary embedding was not called")


def check_stored(call: Call, index: int, layer: Any, held: int | None = None) -> None:
    """Check that a cache layer stores the planned number of tokens: of this call those entering `held`.

    Without `held` those entering the layer itself.
    """
    planned = call.stored_at(index) + call.n_new - call.dropped(index if held is None else held)
    stored = stored_length(layer)
    if stored != planned:
        raise broken(f"cache layer {index} stores {stored} tokens per sequence, {planned} were planned")
