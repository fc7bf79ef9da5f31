# SPDX-License-Identifier: Apache-2.0
"""Cuts before decoder layers: each layer from the first boundary on gets fewer rows than the one before."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask

from tokenprune import Cut
from tokenprune.precision import as_written
from tokenprune.stack import select_all

from .cache import PrunedLayer
from .call import Call, Stage, untraced
from .decoder_signals import DecoderView
from .front_signals import text_after
from .plan import take
from .rows import HIDDEN, RowChoice
from .tap import ATTENTION_SIGNALS, AttentionTap

if TYPE_CHECKING:
    from .vlm import TransformersAdapter


class DecoderCuts:
    """Hooks on the decoder layers from the first boundary on, and taps on the layers before boundaries."""

    def __init__(self, adapter: TransformersAdapter, cut: Cut, current: Callable[[], Call | None]) -> None:
        self.adapter, self.cut, self._current = adapter, cut, current
        schedule = cut.method.schedule
        assert schedule is not None  # refused by the adapter's check
        self.boundaries = schedule.boundaries(len(adapter.layers))
        self._undo: list[Callable[[], None]] = []
        for i in range(self.boundaries[0], len(adapter.layers)):
            hook = functools.partial(self._enter_layer, i)
            self._undo.append(adapter.layers[i].register_forward_pre_hook(hook, with_kwargs=True).remove)
        if cut.method.needs & ATTENTION_SIGNALS:
            for i in self.boundaries:
                if i > 0:
                    see = functools.partial(self._see, i - 1)
                    self._undo.append(AttentionTap(adapter.layers[i - 1].self_attn, see).remove)

    def remove(self) -> None:
        """Take hooks and taps away."""
        while self._undo:
            self._undo.pop()()

    def prepare(self, call: Call) -> None:
        """Look at a prefill that brings images, after the cut before the language model: plan each image."""
        assert call.entered is not None and self.cut.method.schedule is not None
        if call.front is not None:
            for image in call.images:
                image.slots = call.front.plan.slot[image.span.row, image.slots]
        for image in call.images:
            image.began, image.text = image.slots, text_after(call, image, call.entered.shape[1])
            n = len(image.slots)
            keep = self.cut.budget.rows(n)
            if n < self.cut.min_tokens:
                image.note = f"fewer than {self.cut.min_tokens} tokens"
                continue
            if image.note == HIDDEN or (call.front is None and call.hides(image)):
                image.note = HIDDEN
                continue
            image.schedule = self.cut.method.schedule.cuts(
                keep, n, len(self.adapter.layers), self.cut.method.budget
            )
            if not image.schedule:
                image.note = "budget not below N"
        call.choice = RowChoice(call.entered.shape[:2], call.entered_real, call.entered.device)

    def _see(self, layer: int, query: Tensor, key: Tensor, scaling: float | None) -> None:
        call = self._current()
        if call is not None and call.choice is not None:
            call.taps[layer] = query.detach(), key.detach(), scaling

    def _enter_layer(
        self, i: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        call = self._current()
        if call is None:
            return None
        hidden = args[0]
        if call.choice is not None and any(i in image.schedule for image in call.images):
            hidden = untraced(self._cut_before)(i, call, hidden, kwargs)
        stage, layer = call.stage(i), call.layer(i)
        if stage is not None:
            kwargs["position_embeddings"] = self._rotated(call, stage, hidden, kwargs)
            kwargs["position_ids"] = None
            kwargs["attention_mask"] = self._mask(i, call, hidden, layer, stage.plan.valid)
        elif isinstance(layer, PrunedLayer):
            self._go_on(i, call, hidden, layer, kwargs)
        return (hidden, *args[1:]), kwargs

    def _cut_before(self, i: int, call: Call, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """Choose, and drop rows: hidden (B, P, D) -> (B, P', D)."""
        start = time.perf_counter()
        choice, before = call.choice, call.stage(i)
        assert choice is not None
        rotated = (
            kwargs["position_embeddings"] if before is None else self._rotated(call, before, hidden, kwargs)
        )
        view = DecoderView(self.adapter, call, i, hidden, rotated)
        images = [image for image in call.images if i in image.schedule]
        keeps = [min(image.schedule[i], len(image.slots)) for image in images]
        with torch.no_grad(), as_written(hidden.device):
            tokens = [view.tokens(image) for image in images]
            selections = select_all(self.cut.method, tokens, keeps, layer=i)
        for image, selection in zip(images, selections, strict=True):
            choice.cut(image, selection, i)
        hidden = choice.write_new_rows(hidden, None if before is None else before.plan.slot)
        plan = choice.plan()
        index = plan.index if before is None else before.plan.slot.gather(1, plan.index)
        contiguous = (self.cut.method.positions or self.adapter.positions[0]) == "contiguous"
        call.stages[i] = Stage(plan, choice.gone() if contiguous else None)
        call.taps.clear()
        call.seconds += time.perf_counter() - start
        return take(hidden, index)

    def _rotated(self, call: Call, stage: Stage, hidden: Tensor, kwargs: dict[str, Any]) -> Any:
        """Rotary cosines and sines of the rows a stage leaves."""
        key = id(stage)
        if key not in call.rotated:
            if stage.gone is None:
                given = kwargs["position_embeddings"]
                call.rotated[key] = tuple(take(one, stage.plan.index, one.ndim - 2) for one in given)
            else:
                assert call.positions is not None
                call.rotated[key] = self.adapter.rotate(hidden, stage.positions(call.positions))
        return call.rotated[key]

    def _go_on(self, i: int, call: Call, hidden: Tensor, layer: PrunedLayer, kwargs: dict[str, Any]) -> None:
        """A later call on a pruned layer: its own mask, and positions as this layer closed them up."""
        group = max(b for b in self.boundaries if b <= i)
        if kwargs.get("attention_mask") is not None or layer.valid is not None or hidden.shape[1] > 1:
            kwargs["attention_mask"] = self._mask(i, call, hidden, layer, call.real)
        first = call.layer(0)
        front = first.shift if isinstance(first, PrunedLayer) else None
        if layer.shift is None or i == 0 or call.positions is None:
            return
        if group not in call.rotated:
            extra = layer.shift if front is None else layer.shift - front
            call.rotated[group] = self.adapter.rotate(hidden, call.positions - extra.to(hidden.device))
        kwargs["position_embeddings"] = call.rotated[group]

    def _mask(self, i: int, call: Call, hidden: Tensor, layer: Any, new: Tensor | None) -> Any:
        """The causal mask for what this layer stores and gets; one for each group of layers."""
        group = max(b for b in self.boundaries if b <= i)
        if group not in call.masks:
            n_new = hidden.shape[1]
            if isinstance(layer, PrunedLayer):
                flat = layer.mask(n_new, new)
            else:
                flat = call.mask_over_past(i, n_new, new)
            call.masks[group] = create_causal_mask(
                config=self.adapter.language_model.config,
                inputs_embeds=hidden,
                attention_mask=flat,
                past_key_values=None if layer is None else Cache(layers=[layer]),
                position_ids=None,
            )
        return call.masks[group]
