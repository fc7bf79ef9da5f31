# SPDX-License-Identifier: Apache-2.0
"""The language model run by hand on the rows that stay: prompt and answer at once, no hook of the engine.

Before the language model, stock code is called on the kept rows; inside the decoder, its layers are called
one after the other on each group's rows and positions. One row of a batch, without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenprune import ImageReport, Selection
from tokenprune.testing.outputs import slots_of

from .. import stock
from ..calls import LanguageCall, RotaryCall
from ..facts import VisionLanguageFacts
from ..resolved import MaskMakers
from ..signature import Signature
from .observed import StockRow


@dataclass
class HandRun:
    """The last T rows (1, T, D) of the language model; its cache layers; rows that entered each layer."""

    rows: Tensor
    layers: list[Any]
    entering: list[int]


@dataclass
class Passage:
    """Rows (1, P, D) on their way, their positions (..., 1, P), and where each image's stand now."""

    rows: Tensor
    positions: Tensor
    images: list[Tensor]
    source: Tensor  # (P,) which row of the beginning each was

    @classmethod
    def of(cls, row: StockRow, rows: Tensor) -> Passage:
        """Prompt and answer, whole."""
        n = rows.shape[1]
        return cls(
            rows, row.positions, [span.slots for span in row.spans], torch.arange(n, device=rows.device)
        )

    def cut(self, chosen: Sequence[Selection | None], closes_up: bool) -> None:
        """Drop what selections leave out of images; None: nothing."""
        n = self.rows.shape[1]
        index = torch.arange(n, device=self.rows.device)
        keep = torch.ones_like(index, dtype=torch.bool)
        stay = list(self.images)
        rows = self.rows.clone()
        for number, selection in enumerate(chosen):
            if selection is None:
                continue
            old = self.images[number]
            picked = old[slots_of(selection, len(old))]
            stay[number] = picked.sort().values
            keep[old] = False
            keep[stay[number]] = True
            index[stay[number]] = picked  # in the order the method gave them
            if selection.features is not None:
                rows[0, picked] = selection.features.to(rows)
        index = index[keep]
        place = keep.long().cumsum(0) - 1
        self.rows, self.source = rows[:, index], self.source[index]
        self.images = [place[where] for where in stay]
        if closes_up:
            self.positions = torch.arange(len(index), device=index.device)[None]
        else:
            self.positions = self.positions[..., index.to(self.positions.device)]


def images_of(row: StockRow, reported: Sequence[ImageReport]) -> list[ImageReport]:
    """Reports of one row's images, in the order of its spans."""
    left = sorted(reported, key=lambda image: image.number)
    found = []
    for span in row.spans:
        match = next(image for image in left if image.modality == span.modality)
        left.remove(match)
        found.append(match)
    return found


def run_by_hand(row: StockRow, images: Sequence[ImageReport], in_decoder: bool, closes_up: bool) -> HandRun:
    """Prompt and answer of one row, of whose images stays what the reports say.

    Parameters
    ----------
    images
        In the order of the row's spans; none: all rows stay.
    in_decoder
        Whether the cuts were made before decoder layers.
    closes_up
        Whether the rows that stay are renumbered.
    """
    cuts: dict[int, list[Selection | None]] = {}
    for layer in sorted({layer for image in images for layer in image.selections}):
        cuts[layer] = [image.selections.get(layer) for image in images]
    if not in_decoder or not cuts:
        return _before_language(row, cuts.get(0, []), closes_up)
    return _inside(row, cuts, closes_up)


def _before_language(row: StockRow, chosen: Sequence[Selection | None], closes_up: bool) -> HandRun:
    """Stock code, called on embeddings."""
    adapter, n_more = row.adapter, len(row.tokens) - 1
    run = Passage.of(row, torch.cat([row.entered, row.answer_rows()], 1))
    if chosen:
        run.cut(chosen, closes_up)
    n = run.rows.shape[1]
    # counted on, as gaps would look like packed prompts; the rotary embedding gets the real positions
    counted = torch.arange(n, device=run.rows.device)[None]
    kv = stock.new_kv(adapter.language_model.config)
    mask = torch.ones_like(counted)
    hook = _rotating(adapter, run.positions) if adapter.position_axes > 1 or not closes_up else nullcontext()
    if adapter.position_axes > 1:
        call = LanguageCall({}, run.rows, mask, counted, kv, True)
        if row.visual is not None:
            _add_visual(row, run, call)
        args, kwargs = adapter.signatures(False).language.write(call)
        with hook:
            output = adapter.language_model(*args, **kwargs)
    else:  # the model around it makes masks in which image tokens may see each other
        kinds = adapter.answer_kinds(row.inputs, n_more)
        more = {name: value[:, run.source.to(value.device)] for name, value in kinds.items()}
        call_names = adapter.signatures(False).inner.names
        more |= {call_names["embeds"]: run.rows, call_names["mask"]: mask, call_names["kv"]: kv}
        with hook:
            output = adapter.inner(**more)
    rows = stock.output_field(output, "rows")[:, -len(row.tokens) :]
    layers = stock.layers_of(kv)
    return HandRun(rows, layers, [n] * len(layers))


def _add_visual(row: StockRow, run: Passage, call: LanguageCall) -> None:
    """The mask of visual rows, and what is added to those that stay."""
    assert row.visual is not None
    visual = torch.nn.functional.pad(row.visual[0], (0, len(row.tokens) - 1))
    number = visual.long().cumsum(0) - 1
    call.visual = visual[run.source][None]
    kept = number[run.source][visual[run.source]]
    call.added = [each[kept.to(each.device)] for each in row.added]


class _rotating:
    """For the length of a block, the rotary embedding gets these positions, whatever it is called with."""

    def __init__(self, adapter: VisionLanguageFacts, positions: Tensor) -> None:
        self._adapter, self._positions = adapter, positions

    def __enter__(self) -> None:
        signature = self._adapter.signatures(False).rotary

        def turn(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            call = signature.read(RotaryCall, args, kwargs)
            call.positions = self._positions
            return signature.write(call)

        self._hook = self._adapter.rotary.register_forward_pre_hook(turn, with_kwargs=True)

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


def _inside(row: StockRow, cuts: dict[int, list[Selection | None]], closes_up: bool) -> HandRun:
    """Decoder layers called one by one from the first cut on; what enters there is a stock run's."""
    adapter, first = row.adapter, min(cuts)
    run = Passage.of(row, row.before(first))
    kv = stock.new_kv(adapter.language_model.config)
    masks = MaskMakers.resolve()
    entering = [run.rows.shape[1]] * first
    for number in range(first, len(adapter.layers)):
        if number in cuts:
            run.cut(cuts[number], closes_up)
            rotated = adapter.rotary.forward(run.rows, run.positions)
            config = adapter.language_model.config
            mask = masks.make(stock.FULL, config, run.rows, None, None)
        layer = adapter.layers[number]
        names = Signature.of_forward(layer, ("hidden", "mask", "rotated", "kv"), first=("hidden",)).names
        options = {names["mask"]: mask, names["rotated"]: rotated, names["kv"]: kv}
        made = layer(run.rows, **options)
        run.rows = made[0] if isinstance(made, tuple) else made
        entering.append(run.rows.shape[1])
    rows = adapter.final_norm(run.rows)[:, -len(row.tokens) :]
    layers = [*stock.layers_of(row.answer.kv)[:first], *stock.layers_of(kv)[first:]]
    return HandRun(rows, layers, entering)
