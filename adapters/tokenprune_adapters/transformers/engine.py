# SPDX-License-Identifier: Apache-2.0
"""One pruned model: finds the images of a call, cuts before the language model, tells the cache."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenprune import Cut, PruningReport, UnsupportedCallError, VisualTokens
from tokenprune.stack import select_all

from .blocks import own_masks
from .cache import PrunedLayer, as_pruned, bytes_held
from .call import Call, Stage, untraced
from .capture import Encoded, FeatureCapture
from .decoder import DecoderCuts
from .front_signals import projector_tokens
from .images import ImageSpan, locate
from .interposed import NotCopied
from .lease import Lease
from .plan import take
from .refusals import refuse_chunked_prefill, refuse_planned_masks
from .rows import HIDDEN, Image, RowChoice
from .turn import Turn

if TYPE_CHECKING:
    from .vlm import TransformersAdapter


READS_TEXT = frozenset({"text_embeds", "text_ids"})  # what of it comes later changes the choice


class Engine(NotCopied):
    """Hooks on the inner model, its language model and rotary embedding; `remove` takes them away.

    Parameters
    ----------
    adapter
        Knows where things are in this model.
    cuts
        At most one at the projector stage and one at the decoder stage.
    record
        Gets a report for each prefill with visual tokens.
    """

    def __init__(
        self, adapter: TransformersAdapter, cuts: Sequence[Cut], record: Callable[[PruningReport], None]
    ) -> None:
        self.adapter, self.record = adapter, record
        self.front = next((cut for cut in cuts if cut.method.stage == "projector"), None)
        decoder = next((cut for cut in cuts if cut.method.stage == "decoder"), None)
        self.lease = Lease()
        self._turn = Turn()
        self._given: dict[str, Any] | None = None  # arguments of a call that brings images
        self._call: Call | None = None
        inner, language = adapter.inner, adapter.language_model
        self._inner_arguments = list(inspect.signature(type(inner).forward).parameters)[1:]
        needs = frozenset() if self.front is None else self.front.method.needs
        self._reads_text = bool(needs & READS_TEXT)
        hooks = [
            inner.register_forward_pre_hook(self._enter_model, with_kwargs=True),
            inner.register_forward_hook(self._leave_model, with_kwargs=True, always_call=True),
            language.register_forward_pre_hook(self._enter_language, with_kwargs=True),
            language.register_forward_hook(self._leave_language, with_kwargs=True),
            adapter.rotary.register_forward_pre_hook(self._rotate, with_kwargs=True),
        ]
        self._undo = [hook.remove for hook in hooks]
        try:
            self._capture = FeatureCapture(adapter, needs, self._turn)
            self._undo.append(self._capture.remove)
            self._undo.append(refuse_chunked_prefill(adapter.model, adapter.pixel_arguments))
            self.decoder = None if decoder is None else DecoderCuts(adapter, decoder, lambda: self._call)
            if self.decoder is not None:
                self._undo.append(self.decoder.remove)
        except BaseException:  # an installation that fails half way must leave no hook behind
            self.remove()
            raise

    def remove(self) -> None:
        """Take every hook away; caches filled while pruned refuse to be used from now on."""
        self.lease.active = False
        while self._undo:
            self._undo.pop()()

    # -- the inner model: which tokens are visual

    def _enter_model(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not torch.compiler.is_compiling():
            self._turn.take()
        self._call = None
        given = {**dict(zip(self._inner_arguments, args, strict=False)), **kwargs}
        self._given = given if any(_has(given.get(name)) for name in self.adapter.pixel_arguments) else None
        refuse_planned_masks(given, self._given is not None)
        if self._given is None:
            return
        if not given.get("mm_encoder_outputs"):
            self._capture.forget()  # what comes will be this call's own

    def _leave_model(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        self._given, self._call = None, None
        if not torch.compiler.is_compiling():
            self._turn.give()

    def _find_images(self, given: dict[str, Any]) -> list[Image]:
        """All images of the call."""
        spans: list[ImageSpan] = []
        for modality in self.adapter.modalities:
            mask = self._visual_mask(given, modality)
            if bool(mask.any()):
                spans += locate(mask, self._encoded(given, modality).lengths, modality)
        return [
            Image(
                span,
                self.adapter.layout(self._encoded(given, span.modality), span.number),
                span.slots,
                torch.arange(len(span.slots), device=span.slots.device),
            )
            for span in spans
        ]

    def _encoded(self, given: dict[str, Any], modality: str) -> Encoded:
        encoded = self._capture.encoded(modality, (given.get("mm_encoder_outputs") or {}).get(modality))
        if encoded is None:
            raise UnsupportedCallError(
                f"this call brings {modality} features that were not encoded by this model while it was "
                "pruned; pass pixel_values instead"
            )
        return encoded

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

    # -- the language model: choose and gather, afterwards widen and commit

    def _enter_language(self, module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        embeds: Tensor | None = kwargs.get("inputs_embeds")
        if embeds is None:  # the language model alone, called by somebody else than the model around it
            self._call = None
            return args, kwargs
        call = self._call = Call.read(embeds, kwargs)
        first = call.layer(0)
        shift = getattr(first, "shift", None)
        if shift is not None:  # go on where the closed-up positions ended
            positions = call.position_ids(embeds, kwargs.get("position_ids"))
            kwargs["position_ids"] = positions - shift.to(positions.device)
        if self._given is not None:
            untraced(self._look_and_choose)(call, embeds, self._given)
        if call.front is not None:
            self._cut(call, call.front, kwargs)
        elif isinstance(first, PrunedLayer):
            flat = first.mask(call.n_new, call.real)
            kwargs["attention_mask"] = own_masks(module, call, kwargs.get("attention_mask"), flat, None)
        if self.decoder is not None and call.images:
            self.decoder.prepare(call)
        return args, kwargs

    def _look_and_choose(self, call: Call, embeds: Tensor, given: dict[str, Any]) -> None:
        call.images = self._find_images(given)
        if self.front is not None:
            self._choose(call, embeds, given, self.front)

    def _choose(self, call: Call, embeds: Tensor, given: dict[str, Any], cut: Cut) -> None:
        """Let the method choose for each image; sets the call's front cut."""
        start = time.perf_counter()
        choice = RowChoice(embeds.shape[:2], call.real, embeds.device)
        asked: dict[tuple[str, int], VisualTokens] = {}  # rows repeated for beams share their images' choice
        for image in call.images:
            n, key = len(image.slots), (image.span.modality, image.span.number)
            if n < cut.min_tokens:
                image.note = f"fewer than {cut.min_tokens} tokens"
            elif call.hides(image):
                image.note = HIDDEN
            elif cut.budget.rows(n) >= n:
                image.note = "budget not below N"
            elif key not in asked:
                encoded, ids = self._encoded(given, image.span.modality), given.get("input_ids")
                asked[key] = projector_tokens(self.adapter, call, image, encoded, embeds, ids)
        with torch.no_grad():
            selections = select_all(cut.method, list(asked.values()), [cut.budget] * len(asked))
        chosen = dict(zip(asked, selections, strict=True))
        for image in call.images:
            key = image.span.modality, image.span.number
            if key in chosen and image.note != HIDDEN:
                choice.cut(image, chosen[key], 0)
        if choice.has_cut:
            call.entered = choice.write_new_rows(embeds)
            contiguous = (cut.method.positions or self.adapter.positions[0]) == "contiguous"
            call.front = Stage(choice.plan(), choice.gone() if contiguous else None)
        call.seconds = time.perf_counter() - start

    def _cut(self, call: Call, front: Stage, kwargs: dict[str, Any]) -> None:
        """Rewrite the language model's arguments for the rows that stay."""
        embeds, plan, first = call.entered, front.plan, call.layer(0)
        assert embeds is not None
        call.positions = front.positions(call.position_ids(embeds, kwargs.get("position_ids")))
        n_new = plan.index.shape[1]
        # the language model counts on from what was seen (gaps would look like packed sequences to it);
        # its rotary embedding gets the real positions
        kwargs["position_ids"] = (torch.arange(n_new, device=embeds.device) + call.seen)[None]
        call.entered, call.entered_real = take(embeds, plan.index), plan.valid
        kwargs["inputs_embeds"] = call.entered
        pruned = isinstance(first, PrunedLayer)
        flat = first.mask(n_new, plan.valid) if pruned else call.mask_over_past(0, n_new, plan.valid)
        language = self.adapter.language_model
        kwargs["attention_mask"] = own_masks(language, call, kwargs.get("attention_mask"), flat, plan)
        self.adapter.prune_arguments(kwargs, plan)

    def _rotate(self, module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        call = self._call
        if call is None:
            return None
        if call.positions is None:
            call.positions = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
            return None
        if "position_ids" in kwargs:
            return args, {**kwargs, "position_ids": call.positions}
        return (args[0], call.positions, *args[2:]), kwargs

    def _leave_language(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        call, self._call = self._call, None
        if call is None:
            return
        n_layers = len(self.adapter.layers)
        if call.front is not None or call.stages:
            output.last_hidden_state = call.widen(output.last_hidden_state, n_layers)
            if getattr(output, "hidden_states", None) is not None:  # entry i: what layer i - 1 gave
                output.hidden_states = tuple(
                    h if h is None else call.widen(h, max(0, i - 1))
                    for i, h in enumerate(output.hidden_states)
                )
        commit = untraced(self._commit) if call.images else self._commit
        commit(call, getattr(output, "past_key_values", None))

    def _commit(self, call: Call, cache: Any) -> None:
        """Tell the cache what was left out of each layer, and report."""
        kept = unpruned = 0
        tail = 0 if call.front is None or call.stages or self._reads_text else call.front.plan.tail
        for i, layer in enumerate([] if cache is None else cache.layers):
            if call.front is not None or call.stage(i) is not None:
                before = call.stored_at(i)
                if not isinstance(layer, PrunedLayer):
                    layer = as_pruned(cache, i, self.lease)
                    layer.valid = call.past if before else None
                layer.lease = self.lease
                layer.commit(call.dropped(i), before, call.valid(i), call.shift(i), tail)
            elif isinstance(layer, PrunedLayer) and call.real is not None:
                layer.commit(0, call.stored_at(i), call.real, None)  # an unpruned chunk with padding
            if call.images:
                kept += bytes_held(layer, call.n_new - call.dropped(i))
                unpruned += bytes_held(layer, call.n_new)
        if call.images:
            images = tuple(image.report() for image in call.images)
            self.record(PruningReport(images, kept, unpruned, call.seconds))


def _has(value: Any) -> bool:
    """Whether an argument brings pixels: a tensor, or a dictionary that is not empty."""
    return value is not None and not (
        isinstance(value, dict) and not any(v is not None for v in value.values())
    )
