# SPDX-License-Identifier: Apache-2.0
"""The cut itself: hooks on the inner model, its language model and its rotary embedding."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenprune import Cut, ImageReport, Layout, PruningReport, Selection, UnsupportedCallError, VisualTokens

from .cache import Lease, PrunedLayer, as_pruned, bytes_per_slot
from .call import Call
from .capture import Encoded, FeatureCapture
from .chunks import refuse_chunked_prefill
from .images import ImageSpan, locate
from .plan import RowPlan, take

if TYPE_CHECKING:
    from .vlm import TransformersAdapter


class Engine:
    """One pruned model. `remove` takes every hook away again.

    Parameters
    ----------
    adapter
        Knows where things are in this model.
    cuts
        What to cut; one at the projector stage.
    record
        Gets a report for each prefill with visual tokens.
    """

    def __init__(
        self, adapter: TransformersAdapter, cuts: Sequence[Cut], record: Callable[[PruningReport], None]
    ) -> None:
        self.adapter, self.record = adapter, record
        self.cut = cuts[0]
        self.lease = Lease()
        self._given: dict[str, Any] | None = None  # arguments of a call that brings images
        self._spans: list[ImageSpan] = []
        self._call: Call | None = None
        self._images: list[ImageReport] = []
        self._seconds = 0.0
        inner, language = adapter.inner, adapter.language_model
        self._inner_arguments = list(inspect.signature(type(inner).forward).parameters)[1:]
        needs_projector = bool(self.cut.method.needs & {"pre_features"})
        self._capture = FeatureCapture(
            inner, adapter.modalities, adapter.projector_module if needs_projector else None
        )
        self._stop_looking = refuse_chunked_prefill(adapter.model, adapter.pixel_arguments)
        self._hooks = [
            inner.register_forward_pre_hook(self._enter_model, with_kwargs=True),
            inner.register_forward_hook(self._leave_model, with_kwargs=True, always_call=True),
            language.register_forward_pre_hook(self._enter_language, with_kwargs=True),
            language.register_forward_hook(self._leave_language, with_kwargs=True),
            adapter.rotary.register_forward_pre_hook(self._rotate, with_kwargs=True),
        ]

    def remove(self) -> None:
        """Take every hook away; caches filled while pruned refuse to be used from now on."""
        self.lease.active = False
        self._capture.remove()
        self._stop_looking()
        while self._hooks:
            self._hooks.pop().remove()

    # -- the inner model: which tokens are visual

    def _enter_model(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._spans, self._call = [], None
        given = {**dict(zip(self._inner_arguments, args, strict=False)), **kwargs}
        self._given = given if any(_has(given.get(name)) for name in self.adapter.pixel_arguments) else None
        if self._given is None:
            return
        mask, cache = given.get("attention_mask"), given.get("past_key_values")
        if isinstance(mask, Tensor) and mask.ndim == 4 and not getattr(cache, "is_compileable", False):
            raise UnsupportedCallError(
                "a pruned model takes a two-dimensional attention_mask (padding); a four-dimensional one "
                "says nothing about the rows that stay"
            )
        if not given.get("mm_encoder_outputs"):
            self._capture.forget()  # what comes will be this call's own

    def _leave_model(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        self._given, self._spans, self._call = None, [], None

    def _find_images(self, given: dict[str, Any]) -> list[ImageSpan]:
        """Spans of all images of the call."""
        spans = []
        for modality in self.adapter.modalities:
            mask = self._visual_mask(given, modality)
            if not bool(mask.any()):
                continue
            encoded = self._encoded(given, modality)
            if encoded is None:
                raise UnsupportedCallError(
                    f"this call brings {modality} features that were not encoded by this model while it was "
                    "pruned; pass pixel_values instead"
                )
            spans += locate(mask, encoded.lengths, modality)
        return spans

    def _encoded(self, given: dict[str, Any], modality: str) -> Encoded | None:
        return self._capture.encoded(modality, (given.get("mm_encoder_outputs") or {}).get(modality))

    def _visual_mask(self, given: dict[str, Any], modality: str) -> Tensor:
        """(B, L) where placeholders of a modality stand."""
        token = self.adapter.token_id(modality)
        ids = given.get("input_ids")
        if ids is not None:
            mask: Tensor = ids == token
            return mask
        embeds: Tensor = given["inputs_embeds"]
        table = self.adapter.model.get_input_embeddings()
        placeholder: Tensor = table(torch.tensor(token, device=embeds.device))
        return (embeds == placeholder).all(-1)

    # -- the language model: choose, gather, and afterwards widen and commit

    def _enter_language(self, module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        embeds: Tensor = kwargs["inputs_embeds"]
        call = self._call = Call.read(embeds, kwargs)
        first = call.first_layer
        shift = getattr(first, "shift", None)
        if shift is not None:  # go on where the closed-up positions ended
            positions = call.position_ids(embeds, kwargs.get("position_ids"))
            kwargs["position_ids"] = positions - shift.to(positions.device)
        self._images = []
        if self._given is not None:
            self._spans = self._find_images(self._given)
            embeds = self._choose(call, embeds)
        if call.plan is not None:
            self._cut(call, embeds, kwargs)
        elif isinstance(first, PrunedLayer):
            kwargs["attention_mask"] = first.mask(call.n_new, call.real)
        return args, kwargs

    def _choose(self, call: Call, embeds: Tensor) -> Tensor:
        """Let the method choose for each image, set the call's plan, return the rows with new ones."""
        start = time.perf_counter()
        keep = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        rank = torch.arange(embeds.shape[1], device=embeds.device).repeat(len(embeds), 1)
        chosen: dict[tuple[str, int], Selection] = {}
        written, reordered = embeds, False
        for span in self._spans:
            encoded = self._encoded(self._given or {}, span.modality)
            assert encoded is not None
            n, layout = len(span.slots), self.adapter.layout(encoded, span.number)
            rows = self.cut.budget.rows(n)
            if n < self.cut.min_tokens or rows >= n:
                note = (
                    f"fewer than {self.cut.min_tokens} tokens"
                    if n < self.cut.min_tokens
                    else "budget not below N"
                )
                self._images.append(ImageReport(span.row, layout, n, n, note=note))
                continue
            key = (span.modality, span.number)
            if key not in chosen:  # rows repeated for beams share their images' choice
                with torch.no_grad():
                    chosen[key] = self.cut.method.select(
                        self._tokens(call, embeds, span, encoded, layout), rows
                    )
            selection = chosen[key]
            slots = span.slots[_fill_new_rows(selection.indices, n)]
            keep[span.row, span.slots] = False
            keep[span.row, slots] = True
            rank[span.row, slots] = slots.sort().values
            if selection.features is not None:
                reordered = True
                written = written.clone() if written is embeds else written
                written[span.row, slots] = selection.features.to(written.dtype)
            self._images.append(ImageReport(span.row, layout, n, len(selection), selection))
        if not bool(keep.all()):
            if call.real is not None:
                keep &= call.real.to(keep.device)
            call.plan = RowPlan.make(keep, rank if reordered else None)
            self._close_up(call, keep)
        self._seconds = time.perf_counter() - start
        return written

    def _tokens(
        self, call: Call, embeds: Tensor, span: ImageSpan, encoded: Encoded, layout: Layout
    ) -> VisualTokens:
        """What the method may see of one image; signals are computed when asked for."""
        features = embeds[span.row, span.slots]
        signals = {
            "pre_features": lambda: self.adapter.pre_features(encoded, span.number),
            "projector": self.adapter.projector(),
            "input_features": features,
            "text_embeds": lambda: self._text_after(call, embeds, span),
        }
        return VisualTokens(features, signals, layout)

    def _text_after(self, call: Call, embeds: Tensor, span: ImageSpan) -> Tensor:
        """Embeddings of the text after an image, (T, D)."""
        text = torch.ones(embeds.shape[1], dtype=torch.bool, device=embeds.device)
        for other in self._spans:
            if other.row == span.row:
                text[other.slots] = False
        text[: int(span.slots[-1]) + 1] = False
        if call.real is not None:
            text &= call.real[span.row].to(text.device)
        return embeds[span.row, text]

    def _close_up(self, call: Call, keep: Tensor) -> None:
        """Count the tokens gone before each token, unless the kept ones keep their positions."""
        positions = self.cut.method.positions or self.adapter.positions[0]
        if positions == "original":
            return
        gone = ~keep if call.real is None else ~keep & call.real.to(keep.device)
        call.gone = gone.cumsum(1)

    def _cut(self, call: Call, embeds: Tensor, kwargs: dict[str, Any]) -> None:
        """Rewrite the language model's arguments for the rows that stay."""
        plan = call.plan
        assert plan is not None
        positions = call.position_ids(embeds, kwargs.get("position_ids"))
        axis = positions.ndim - 1
        if call.gone is not None:
            call.positions = take(positions - call.gone, plan.ascending, axis)
        else:
            call.positions = take(positions, plan.index, axis)
        n_new = embeds.shape[1] - plan.dropped
        # the language model counts on from what was seen (gaps would look like packed sequences to it);
        # its rotary embedding gets the real positions
        kwargs["position_ids"] = (torch.arange(n_new, device=embeds.device) + call.seen)[None]
        kwargs["inputs_embeds"] = take(embeds, plan.index)
        first = call.first_layer
        if isinstance(first, PrunedLayer):
            kwargs["attention_mask"] = first.mask(n_new, plan.valid)
        else:
            kwargs["attention_mask"] = call.mask_over_past(n_new, plan.valid)

    def _rotate(self, module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        call = self._call
        if call is None or call.positions is None:
            return None
        if "position_ids" in kwargs:
            return args, {**kwargs, "position_ids": call.positions}
        return (args[0], call.positions, *args[2:]), kwargs

    def _leave_language(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        call, self._call = self._call, None
        if call is None:
            return
        if call.plan is not None:
            output.last_hidden_state = take(output.last_hidden_state, call.plan.slot)
            if getattr(output, "hidden_states", None) is not None:
                output.hidden_states = tuple(take(h, call.plan.slot) for h in output.hidden_states)
        self._commit(call, getattr(output, "past_key_values", None))

    def _commit(self, call: Call, cache: Any) -> None:
        """Tell the cache what was left out, and report."""
        kept = pruned = 0
        layers = [] if cache is None else cache.layers
        for i, layer in enumerate(layers):
            before = call.stored[i] if i < len(call.stored) else 0
            if call.plan is not None:
                if not isinstance(layer, PrunedLayer):
                    layer = as_pruned(cache, i, self.lease)
                    layer.valid = call.past if before else None
                layer.commit(call.plan.dropped, before, call.plan.valid, call.shift)
            elif isinstance(layer, PrunedLayer) and call.real is not None:
                layer.commit(0, before, call.real, None)  # an unpruned chunk with padding
            if self._images:
                dropped = call.plan.dropped if call.plan is not None else 0
                kept += bytes_per_slot(layer) * (call.n_new - dropped)
                pruned += bytes_per_slot(layer) * call.n_new
        if self._images:
            self.record(PruningReport(tuple(self._images), kept, pruned, self._seconds))
            self._images = []


def _has(value: Any) -> bool:
    """Whether an argument brings pixels: a tensor, or a dictionary that is not empty."""
    return value is not None and not (
        isinstance(value, dict) and not any(v is not None for v in value.values())
    )


def _fill_new_rows(indices: Tensor, n: int) -> Tensor:
    """Give each new row (-1) the next free slot after the row before it, else the lowest free one."""
    if not bool((indices < 0).any()):
        return indices
    taken = set(indices.tolist())
    filled, last = [], -1
    for index in indices.tolist():
        if index < 0:
            after = (slot for slot in (*range(last + 1, n), *range(last + 1)) if slot not in taken)
            index = next(after)
            taken.add(index)
        filled.append(index)
        last = index
    return torch.tensor(filled, device=indices.device)
