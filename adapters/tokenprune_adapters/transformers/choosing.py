# SPDX-License-Identifier: Apache-2.0
"""Choose the rows of a call that are kept: locate its images and run the methods."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Protocol

import torch
from torch import Tensor

from tokenprune import Budget, Cut, Selection, UnsupportedCallError, VisualTokens
from tokenprune.batch import select_all
from tokenprune.image_plan import LeftAlone, plan_image
from tokenprune.precision import without_autocast
from tokenprune.towers.outcome import Outcome

from . import stock
from .call import Call, RemainingRows
from .calls import ModelCall
from .capture import FeatureCapture
from .decoder_signals import DecoderView
from .encoded import Encoded
from .facts import VisionLanguageFacts
from .front_signals import tokens_before_language
from .images import ImageSpan, locate
from .refusals import refuse_changed_rows
from .rows import Image, RowChoice
from .text import last_token, text_after


class Chooser(Protocol):
    """Decides which rows are kept; the engine calls the methods in this order for each call with images."""

    def before_language(self, call: Call, brought: ModelCall) -> None:
        """Set `call.images`, and `call.front` if rows are dropped before the language model."""

    def before_layers(self, call: Call) -> None:
        """Set `call.choice` and `call.due`, the decoder layers before which rows are dropped."""

    def before_layer(self, i: int, call: Call, hidden: Tensor, rotated: Any) -> None:
        """Drop rows from `call.choice` before decoder layer `i`, whose rows are `hidden` (B, P, D)."""


class MethodChooser:
    """Chooses rows with pruning methods.

    Parameters
    ----------
    tower, front, decoder
        The cuts inside the vision tower, and before and inside the language model; None for no cut.
    """

    def __init__(
        self,
        adapter: VisionLanguageFacts,
        capture: FeatureCapture,
        tower: Cut | None,
        front: Cut | None,
        decoder: Cut | None,
    ) -> None:
        self.adapter, self._capture = adapter, capture
        self._tower, self._front, self._decoder = tower, front, decoder

    # -- before the language model

    def before_language(self, call: Call, brought: ModelCall) -> None:
        """Locate the images, drop what their tower dropped, and choose rows of the others."""
        start = time.perf_counter()
        call.images = self._find_images(brought)
        cuts = [cut for cut in (self._tower, self._front) if cut is not None]
        if not cuts:
            return
        embeds = call.entered
        assert embeds is not None
        choice = RowChoice(embeds.shape[:2], call.real, embeds.device)
        if self._tower is not None:
            self._drop_filled(call, brought, choice)
        if self._front is not None:
            self._choose_before_language(call, brought, self._front, choice)
        if choice.has_cut:
            call.entered = choice.write_new_rows(embeds)
            closes_up = any(cut.closes_up for cut in cuts)
            call.front = RemainingRows(choice.plan(), choice.gone(call.restarts) if closes_up else None)
        call.seconds += time.perf_counter() - start

    def _drop_filled(self, call: Call, brought: ModelCall, choice: RowChoice) -> None:
        """Drop the rows that stand for tokens that did not leave the vision tower."""
        towers: dict[str, Outcome] = {}
        for image in call.images:
            encoded = self._encoded(brought, image.span.modality)
            outcome, number = encoded.seen.tower, image.span.number
            if outcome is None:
                raise UnsupportedCallError(
                    "the images of this call were encoded without their vision tower, in which tokens are "
                    "to be cut; remove the pruning, or prune at the projector stage"
                )
            towers[image.span.modality] = outcome
            image.note = next(iter(outcome.notes.values()), "")
            if outcome.survivors is None:
                continue
            tokens, left = self.adapter.survivors_of(encoded, number)
            image.note = outcome.notes.get(number, "")
            image.capped = outcome.capped.get(number)
            if len(tokens) < len(image.slots):
                image.tower_cuts, image.survivors = left, tokens
                choice.cut(image, image.slots, Selection(tokens.to(image.slots.device)), 0)
        call.towers = list(towers.values())
        call.seconds += sum(outcome.seconds for outcome in call.towers)

    def _find_images(self, brought: ModelCall) -> list[Image]:
        """Locate all images of the call in the batch."""
        spans: list[ImageSpan] = []
        for modality in self.adapter.modalities:
            if self.adapter.shares_placeholders and not brought.brings(modality):
                continue
            mask = self._visual_mask(brought, modality)
            if bool(mask.any()):
                spans += locate(mask, self._encoded(brought, modality).lengths, modality)
        return [
            Image(
                span,
                self.adapter.layout(self._encoded(brought, span.modality), span.number),
                span.slots,
                torch.arange(len(span.slots), device=span.slots.device),
            )
            for span in spans
        ]

    def _encoded(self, brought: ModelCall, modality: str) -> Encoded:
        output = (brought.encoded or {}).get(modality)
        encoded = self._capture.encoded(modality, output)
        if encoded is None:
            raise UnsupportedCallError(
                f"this call brings {modality} features that were not encoded by this model while it was "
                "pruned; pass pixel values instead"
            )
        return encoded

    def _visual_mask(self, brought: ModelCall, modality: str) -> Tensor:
        """Mask (B, L) of a modality's placeholder tokens."""
        token = self.adapter.token_id(modality)
        if brought.ids is not None:
            mask: Tensor = brought.ids == token
            return mask
        assert brought.embeds is not None
        placeholder = stock.embedding_of(self.adapter.model, token, brought.embeds.device)
        return (brought.embeds == placeholder).all(-1)

    def _choose_before_language(self, call: Call, brought: ModelCall, cut: Cut, choice: RowChoice) -> None:
        """Run the method on each image."""
        embeds = call.entered
        assert embeds is not None
        tokens: dict[tuple[str, int], VisualTokens] = {}  # rows repeated for beams share their images' choice
        budgets: list[Budget] = []
        for image in call.images:
            n, key = len(image.slots), (image.span.modality, image.span.number)
            budget = self._budget(cut, image)
            image.plan(cut, plan_image(dataclasses.replace(cut, budget=budget), n, hidden=call.hides(image)))
            if image.left_alone is None and key not in tokens:
                encoded = self._encoded(brought, image.span.modality)
                tokens[key] = tokens_before_language(self.adapter, call, image, encoded, embeds, brought.ids)
                budgets.append(budget)
        with torch.no_grad():
            selections = select_all(cut.method, list(tokens.values()), budgets)
        chosen = dict(zip(tokens, selections, strict=True))
        for image in call.images:
            key = image.span.modality, image.span.number
            if image.left_alone is None:
                choice.cut(image, image.slots, chosen[key], 0)

    def _budget(self, cut: Cut, image: Image) -> Budget:
        """The budget of an image: after a cut inside the tower, a ratio is one of all its tokens."""
        if cut.budget.keep_ratio is None or not image.tower_cuts:
            return cut.budget
        return Budget(cut.budget.rows(len(image.span.slots)))

    # -- inside the decoder

    def before_layers(self, call: Call) -> None:
        """Plan how many rows of each image are kept at each boundary."""
        cut, entered = self._decoder, call.entered
        assert cut is not None and entered is not None
        for image in call.images:
            image.entered = image.began = _where_entered(call, image, image.slots)
            image.text = _where_entered(call, image, text_after(call.images, image, call))
            image.last = _where_entered(call, image, last_token(image, call))
            hidden = image.left_alone is LeftAlone.HIDDEN or (call.front is None and call.hides(image))
            plan = plan_image(cut, len(image.slots), len(self.adapter.layers), hidden)
            image.plan(cut, plan)
            image.schedule = dict(plan.cuts)
        call.choice = RowChoice(entered.shape[:2], call.entered_real, entered.device)
        call.due = frozenset(layer for image in call.images for layer in image.schedule)

    def before_layer(self, i: int, call: Call, hidden: Tensor, rotated: Any) -> None:
        """Run the method on each image that is cut before this layer."""
        start = time.perf_counter()
        assert call.choice is not None and self._decoder is not None
        view = DecoderView(self.adapter, call, i, hidden, rotated)
        images = [image for image in call.images if i in image.schedule]
        keeps: list[int | Budget] = [min(image.schedule[i], len(image.slots)) for image in images]
        if self._decoder.budget.rule is not None:
            keeps = [self._decoder.budget] * len(images)
        with torch.no_grad(), without_autocast(hidden.device):
            tokens = [view.tokens(image) for image in images]
            selections = select_all(self._decoder.method, tokens, keeps, layer=i)
        if self._decoder.method.trim_early_cache:
            refuse_changed_rows(self._decoder.method.name, selections)
        for image, selection in zip(images, selections, strict=True):
            image.entered = call.choice.cut(image, _entered(image), selection, i)
        call.seconds += time.perf_counter() - start


def _where_entered(call: Call, image: Image, slots: Tensor) -> Tensor:
    """Map slots of the prompt to slots of the decoder's input; dropped tokens map to the one before."""
    return slots if call.front is None else call.front.plan.slot[image.span.row, slots]


def _entered(image: Image) -> Tensor:
    assert image.entered is not None
    return image.entered
