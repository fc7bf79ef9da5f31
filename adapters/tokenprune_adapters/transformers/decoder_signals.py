# SPDX-License-Identifier: Apache-2.0
"""The visual tokens that a method reads before a decoder layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tokenprune import IncompatibleError, Layout, VisualTokens

from . import stock
from .call import Call
from .facts import VisionLanguageFacts
from .pruned_layer import PrunedLayer
from .refusals import refuse_unread_past
from .rows import Image
from .tap import attention_probabilities


class DecoderView:
    """Hidden rows, queries, keys and positions of the batch before decoder layer `layer`.

    `hidden` (B, P, D) are the rows at the cut, `rotated` their rotary cosines and sines.
    """

    def __init__(
        self, adapter: VisionLanguageFacts, call: Call, layer: int, hidden: Tensor, rotated: Any
    ) -> None:
        self.adapter, self.call, self.layer, self.hidden, self.rotated = adapter, call, layer, hidden, rotated
        remaining = call.remaining_at(layer)
        self._slot = None if remaining is None else remaining.plan.slot
        self._real, self._sequence = call.valid(layer), call.sequence(layer)

    def tokens(self, image: Image) -> VisualTokens:
        """The visual tokens of one image at the cut."""
        call, row = self.call, image.span.row
        entered = call.entered
        assert entered is not None
        began, text = image.began, image.text
        assert began is not None and text is not None and image.entered is not None and image.last is not None
        at, text_at, last_at = (self._here(row, slots) for slots in (image.entered, text, image.last))

        def hidden(where: Tensor) -> Callable[[int], Tensor]:
            def rows(layer: int) -> Tensor:
                if layer != self.layer:
                    raise IncompatibleError(
                        f"hidden rows of layer {layer} are not available before layer {self.layer}"
                    )
                return self.hidden[row, where]

            return rows

        def keys(where: Tensor) -> Callable[[int], Tensor]:
            def rows(layer: int) -> Tensor:
                key = self._attention(layer)[1]
                return key[row][:, self._past(layer) + where]

            return rows

        def attention_rows(layer: int, rows: Tensor) -> Tensor:
            indices = torch.as_tensor(rows, device=text_at.device).reshape(-1)
            queries = torch.where(indices == -1, last_at, text_at[indices])
            return self._probabilities(layer, row, queries, at)

        def positions(where: Tensor) -> Callable[[], Tensor]:
            return lambda: self._positions(row)[..., where]

        return VisualTokens(
            self.hidden[row, at],
            {
                "input_features": lambda: entered[row, began],
                "text_embeds": lambda: entered[row, text],
                "attention_rows": attention_rows,
                "keys": keys(at),
                "text_keys": keys(text_at),
                "hidden": hidden(at),
                "text_hidden": hidden(text_at),
                "final_norm": self.adapter.final_norm,
                "position_ids": positions(at),
                "text_position_ids": positions(text_at),
                "rotary": self._rotary,
            },
            image.layout if len(image.layout) == len(at) else Layout((1, 1, len(at))),
            self.layer,
        )

    def _here(self, row: int, slots: Tensor) -> Tensor:
        """Map slots of the language model's input to the current rows."""
        return slots if self._slot is None else self._slot[row, slots]

    def _past(self, layer: int) -> int:
        return self.call.stored_at(layer)

    def _positions(self, row: int) -> Tensor:
        """Positions of the current rows, (P,) or (3, P)."""
        positions = self.call.positions
        assert positions is not None
        remaining = self.call.remaining_at(self.layer)
        current = positions if remaining is None else remaining.positions(positions)
        return current[..., min(row, current.shape[-2] - 1), :]

    def _rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.adapter.rotate(self.hidden[:1, :1].float(), positions[..., None, :])
        return cos[0], sin[0]

    def _attention(self, layer: int) -> tuple[Tensor, Tensor, float | None]:
        """Queries (B, H, P, d), keys (B, H_kv, past + P, d) and scaling of a layer."""
        if layer not in self.call.taps:
            if layer != self.layer:
                raise IncompatibleError(
                    f"attention of layer {layer} is not available before layer {self.layer}"
                )
            self._look()
        return self.call.taps[layer]

    def _look(self) -> None:
        """Record queries and keys of the layer that runs next, including its cached keys."""
        call, stored = self.call, self._past(self.layer)
        assert call.look is not None
        call.look()
        query, key, scaling = call.taps[self.layer]
        if stored:
            refuse_unread_past(call.kv)
            before = stock.keys_of(call.layer(self.layer), stored, key)
            call.taps[self.layer] = query, torch.cat([before[:, :, :stored], key], 2), scaling

    def _probabilities(self, layer: int, row: int, queries: Tensor, image: Tensor) -> Tensor:
        """Attention (H, R, n) from the rows `queries` (R,) to an image's rows (n,)."""
        query, key, scaling = self._attention(layer)
        n_past, n_now = self._past(layer), query.shape[2]
        key = key[row][:, : n_past + n_now]  # static caches have more slots
        allowed = torch.arange(n_now, device=queries.device) <= queries[:, None]
        if self._real is not None:
            allowed &= self._real[row].to(allowed.device)
        if self._sequence is not None:
            numbers = self._sequence[row].to(allowed.device)
            allowed &= numbers == numbers[queries][:, None]
        if n_past:  # the softmax includes cached tokens
            cached, before = self.call.layer(layer), self.call.past
            if isinstance(cached, PrunedLayer):
                before = cached.visible(n_past, self.call.seen, allowed.device)
            past = allowed.new_ones(1, n_past) if before is None else before[row : row + 1].to(allowed.device)
            allowed = torch.cat([past.expand(len(allowed), -1), allowed], 1)
        rows = attention_probabilities(query[row][:, queries], key, allowed, scaling)
        return rows[:, :, n_past + image]
