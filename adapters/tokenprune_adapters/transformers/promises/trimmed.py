# SPDX-License-Identifier: Apache-2.0
"""Reference run of a cut whose early caches are trimmed: the prompt as cut, then the answer under masks.

Layers are called one by one. Those of the answer get masks that hide, in every layer, what any cut dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokenprune import ImageReport

from .. import stock
from ..resolved import MaskMakers
from ..signature import Signature
from .by_hand import HandRun, Passage, cuts_of, others_of, run_by_hand
from .observed import StockRow


def run_trimmed(row: StockRow, images: Sequence[ImageReport], closes_up: bool) -> HandRun:
    """Run the prompt and the answer of one row, with the selections of the reports; see `run_by_hand`."""
    cuts = cuts_of(images)
    if not cuts:
        return run_by_hand(row, images, True, closes_up)
    adapter, first, n = row.adapter, min(cuts), row.entered.shape[1]
    kv = stock.new_kv(adapter.language_model.config)
    for unpruned, layer in zip(stock.layers_of(row.answer.kv)[:first], stock.layers_of(kv), strict=False):
        stock.store(layer, *(stored[:, :, :n] for stored in stock.contents_of(unpruned)))

    prompt = Passage.of(row, row.before(first)[:, :n])
    prompt.positions = prompt.positions[..., :n]
    later = row.positions[..., n:]  # of the answer
    answer = Passage(row.before(0)[:, n:], later, [], n + torch.arange(later.shape[-1], device=later.device))
    stored = [prompt.source] * first
    positions = [later] * first
    for number in range(first, len(adapter.layers)):
        if number in cuts:
            prompt.cut(cuts[number], closes_up)
            if closes_up:
                n_left = len(prompt.source)
                later = torch.arange(n_left, n_left + later.shape[-1], device=later.device)[None]
        stored.append(prompt.source)
        positions.append(later)
        _call(row, number, prompt, kv, None)
    held = [torch.isin(tokens, prompt.source) for tokens in stored]

    for number, is_held in enumerate(held):
        answer.positions = positions[number]
        seen = torch.nn.functional.pad(is_held, (0, answer.rows.shape[1]), value=True)[None]
        _call(row, number, answer, kv, seen)
    layers = stock.layers_of(kv)
    for layer, is_held in zip(layers, held, strict=True):
        n_stored = len(is_held) + answer.rows.shape[1]
        kept = torch.nn.functional.pad(is_held, (0, answer.rows.shape[1]), value=True)
        stock.keep_rows(layer, 0, n_stored, kept.nonzero().T)
    rows = adapter.final_norm(torch.cat([prompt.rows[:, -1:], answer.rows], 1))
    entering = [len(prompt.source) + answer.rows.shape[1]] * len(layers)
    return HandRun(rows, layers, entering, [int((~is_held).sum()) for is_held in held])


def _call(row: StockRow, number: int, run: Passage, kv: Any, seen: Tensor | None) -> None:
    """Call a decoder layer on the current rows; `seen` (1, S) is the mask over all that it stores then."""
    adapter, config = row.adapter, row.adapter.language_model.config
    layer, past = adapter.layers[number], None
    if seen is not None:
        past = stock.kv_of_one(stock.layers_of(kv)[number])
    mask = MaskMakers.resolve().make(stock.FULL, config, run.rows, seen, past)
    names = Signature.of_forward(layer, ("hidden", "mask", "rotated", "kv"), first=("hidden",)).names
    rotated = adapter.rotary.forward(run.rows, run.positions)
    options = {names["mask"]: mask, names["rotated"]: rotated, names["kv"]: kv, **others_of(row, run)}
    output = layer(run.rows, **options)
    run.rows = output[0] if isinstance(output, tuple) else output
