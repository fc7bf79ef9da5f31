# SPDX-License-Identifier: Apache-2.0
"""Reference runs of the language model on the kept rows: prompt and answer at once, without the engine.

For cuts before the language model, stock code is called on the kept rows; for cuts inside the decoder, its
layers are called one by one on each group's rows and positions. One row of a batch, without padding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
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
    """A reference run: last T rows (1, T, D), cache layers, and the number of rows entering each layer.

    If caches are trimmed, `entering` counts the rows left of them, and `trimmed` those removed.
    """

    rows: Tensor
    layers: list[Any]
    entering: list[int]
    trimmed: list[int] = field(default_factory=list)


@dataclass
class Passage:
    """The current rows (1, P, D), their positions (..., 1, P), and the slots of each image."""

    rows: Tensor
    positions: Tensor
    images: list[Tensor]
    source: Tensor  # (P,) index of each row before all cuts

    @classmethod
    def of(cls, row: StockRow, rows: Tensor) -> Passage:
        """Start from the unpruned prompt and answer."""
        n = rows.shape[1]
        return cls(
            rows, row.positions, [span.slots for span in row.spans], torch.arange(n, device=rows.device)
        )

    def cut(self, chosen: Sequence[Selection | None], closes_up: bool) -> None:
        """Apply a selection to each image; None leaves it unpruned."""
        n = self.rows.shape[1]
        index = torch.arange(n, device=self.rows.device)
        keep = torch.ones_like(index, dtype=torch.bool)
        kept = list(self.images)
        rows = self.rows.clone()
        for number, selection in enumerate(chosen):
            if selection is None:
                continue
            slots = self.images[number]
            picked = slots[slots_of(selection, len(slots))]
            kept[number] = picked.sort().values
            keep[slots] = False
            keep[kept[number]] = True
            index[kept[number]] = picked  # in the order of the selection
            if selection.features is not None:
                rows[0, picked] = selection.features.to(rows)
        index = index[keep]
        place = keep.long().cumsum(0) - 1
        self.rows, self.source = rows[:, index], self.source[index]
        self.images = [place[slots] for slots in kept]
        if closes_up:
            self.positions = torch.arange(len(index), device=index.device)[None]
        else:
            self.positions = self.positions[..., index.to(self.positions.device)]


def images_of(row: StockRow, reported: Sequence[ImageReport]) -> list[ImageReport]:
    """Sort the reports of one row's images in the order of its spans."""
    remaining = sorted(reported, key=lambda image: image.number)
    matches = []
    for span in row.spans:
        match = next(image for image in remaining if image.modality == span.modality)
        remaining.remove(match)
        matches.append(match)
    return matches


def run_by_hand(row: StockRow, images: Sequence[ImageReport], in_decoder: bool, closes_up: bool) -> HandRun:
    """Run the prompt and the answer of one row, with the selections of the reports.

    Parameters
    ----------
    images
        Reports in the order of the row's spans; empty to keep all rows.
    in_decoder
        Whether the cuts were made before decoder layers.
    closes_up
        Whether the kept rows are renumbered.
    """
    cuts = cuts_of(images)
    if not in_decoder or not cuts:
        return _before_language(row, cuts.get(0, []), closes_up)
    return _inside(row, cuts, closes_up)


def cuts_of(images: Sequence[ImageReport]) -> dict[int, list[Selection | None]]:
    """The selections from each image before each layer with a cut, None for images that are not cut there."""
    layers = sorted({layer for image in images for layer in image.selections})
    return {layer: [_of_all_tokens(image, layer) for image in images] for layer in layers}


def _of_all_tokens(image: ImageReport, layer: int) -> Selection | None:
    """The selection before a layer, among the tokens that came there; before the language model, of all."""
    selection = image.selections.get(layer)
    if selection is None or layer or image.survivors is None or image.kept is None:
        return selection
    return dataclasses.replace(selection, indices=image.kept, order=None, scores=None)


def _before_language(row: StockRow, chosen: Sequence[Selection | None], closes_up: bool) -> HandRun:
    """Run stock code on the kept embeddings."""
    adapter = row.adapter
    run = Passage.of(row, torch.cat([row.entered, row.answer_rows()], 1))
    if chosen:
        run.cut(chosen, closes_up)
    n = run.rows.shape[1]
    # consecutive, since gaps would look like packed prompts; the rotary embedding gets the real positions
    counted = torch.arange(n, device=run.rows.device)[None]
    kv = stock.new_kv(adapter.language_model.config)
    call = LanguageCall(others_of(row, run), run.rows, torch.ones_like(counted), counted, kv, True)
    layer_inputs = row.all_layer_inputs()
    if layer_inputs is not None:
        call.layer_inputs = layer_inputs[:, run.source.to(layer_inputs.device)]
    rotating = adapter.position_axes > 1 or not closes_up
    with _rotating(adapter, run.positions) if rotating else nullcontext():
        output = _call_language(row, run, call) if _enters_below(row) else _call_inner(row, run, call)
    rows = stock.output_field(output, "rows")[:, -len(row.tokens) :]
    layers = stock.layers_of(kv)
    return HandRun(rows, layers, [n] * len(layers))


def _call_language(row: StockRow, run: Passage, call: LanguageCall) -> Any:
    if row.visual is not None:
        _add_visual(row, run, call)
    args, kwargs = row.adapter.signatures(False).language.write(call)
    return row.adapter.language_model(*args, **kwargs)


def _call_inner(row: StockRow, run: Passage, call: LanguageCall) -> Any:
    """Call the enclosing model, which makes masks in which image tokens may attend to each other."""
    kinds = row.adapter.answer_kinds(row.inputs, len(row.tokens) - 1)
    more = {name: value[:, run.source.to(value.device)] for name, value in kinds.items()}
    names = row.adapter.signatures(False).inner.names
    more |= {names["embeds"]: run.rows, names["mask"]: call.mask, names["kv"]: call.kv}
    if call.layer_inputs is not None:
        more[stock.argument_name("layer_inputs")] = call.layer_inputs
    return row.adapter.inner(**more)


def _enters_below(row: StockRow) -> bool:
    """Whether the language model is called, whose arguments the enclosing model does not take all."""
    adapter = row.adapter
    has_inputs_of_layers = row.layer_inputs is not None
    takes_them = bool(stock.taken_by(adapter.inner, ("layer_inputs",)))
    return adapter.position_axes > 1 or row.visual is not None or (has_inputs_of_layers and not takes_them)


def others_of(row: StockRow, run: Passage) -> dict[str, Any]:
    """Further arguments of the language model for the current rows; zeros for the answer."""
    n_more = len(row.tokens) - 1
    wide = {name: torch.cat([v, v.new_zeros(1, n_more, *v.shape[2:])], 1) for name, v in row.others.items()}
    return {name: value[:, run.source.to(value.device)] for name, value in wide.items()}


def _add_visual(row: StockRow, run: Passage, call: LanguageCall) -> None:
    """Set the mask of visual rows, and the DeepStack rows of the kept ones."""
    assert row.visual is not None
    visual = torch.nn.functional.pad(row.visual[0], (0, len(row.tokens) - 1))
    number = visual.long().cumsum(0) - 1
    call.visual = visual[run.source][None]
    kept = number[run.source][visual[run.source]]
    call.added = [features[kept.to(features.device)] for features in row.added]


class _rotating:
    """Context manager that replaces the positions that the rotary embedding is called with."""

    def __init__(self, adapter: VisionLanguageFacts, positions: Tensor) -> None:
        self._adapter, self._positions = adapter, positions

    def __enter__(self) -> None:
        signature = self._adapter.signatures(False).rotary

        def replace(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            call = signature.read(RotaryCall, args, kwargs)
            call.positions = self._positions
            return signature.write(call)

        self._hook = self._adapter.rotary.register_forward_pre_hook(replace, with_kwargs=True)

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


def _inside(row: StockRow, cuts: dict[int, list[Selection | None]], closes_up: bool) -> HandRun:
    """Call decoder layers one by one from the first cut on, starting from the rows of a stock run."""
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
        options = {names["mask"]: mask, names["rotated"]: rotated, names["kv"]: kv, **others_of(row, run)}
        output = layer(run.rows, **options)
        run.rows = output[0] if isinstance(output, tuple) else output
        entering.append(run.rows.shape[1])
    rows = adapter.final_norm(run.rows)[:, -len(row.tokens) :]
    layers = [*stock.layers_of(row.answer.kv)[:first], *stock.layers_of(kv)[first:]]
    return HandRun(rows, layers, entering)
