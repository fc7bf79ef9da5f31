# SPDX-License-Identifier: Apache-2.0
"""The hooks of one pruned model: prune the language model's input, expand its output, update the cache."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tokenprune import Cut, PruningReport, UnsupportedCallError
from tokenprune.gather import take
from tokenprune.not_copied import NotCopied
from tokenprune.replicas import refuse_replica
from tokenprune.towers.checks import blocks_read

from . import receipts, stock
from .blocks import masks_of_kept
from .call import Call, RemainingRows, untraced
from .calls import LanguageCall, ModelCall, OuterCall, RotaryCall
from .capture import FeatureCapture
from .choosing import Chooser, MethodChooser
from .continuous import guard_batches, guard_managers
from .decoder import DecoderCuts
from .drafts import guard_drafts
from .exporting import check_exported, is_exporting
from .facts import VisionLanguageFacts
from .lease import Lease
from .pruned_layer import PrunedLayer, as_pruned, guard_states, stored_length
from .refusals import (
    refuse_ambiguous_packing,
    refuse_answer_before_trimming,
    refuse_bent_positions,
    refuse_chunked_prefill,
    refuse_images_into,
    refuse_other_modalities,
    refuse_packing_into_states,
    refuse_padding_inside,
    refuse_recomputing,
    refuse_unknown_layers,
    refuse_unknown_masks,
    refuse_unknown_rows,
    refuse_unread_past,
    refuse_untrimmed,
)
from .resolved import MaskMakers
from .tap import ATTENTION_SIGNALS
from .tower.cuts import TowerCuts
from .tracing import CallTracer
from .turn import Turn
from .undo import UndoStack

MODULE_CALLS = inspect.getsourcefile(torch.nn.Module)  # the source file of the function that runs hooks
READS_TEXT = frozenset({"text_embeds", "text_ids"})  # the choice depends on all of the text


class Engine(NotCopied):
    """Hooks on the inner model, its language model and rotary embedding; `remove` removes them.

    Parameters
    ----------
    adapter
        Describes where the parts of this model are.
    cuts
        At most one at each stage.
    record
        Called with a report after each prefill with visual tokens.
    chooser
        Decides which rows are kept; by default the cuts' methods do.
    """

    def __init__(
        self,
        adapter: VisionLanguageFacts,
        cuts: Sequence[Cut],
        record: Callable[[PruningReport], None],
        chooser: Chooser | None = None,
    ) -> None:
        self.adapter, self.record, self._cuts = adapter, record, tuple(cuts)
        front = next((cut for cut in cuts if cut.method.stage == "projector"), None)
        decoder = next((cut for cut in cuts if cut.method.stage == "decoder"), None)
        tower = next((cut for cut in cuts if cut.method.stage == "vision"), None)
        self.lease = Lease()
        self.brought: ModelCall | None = None  # the current call of the inner model, if it has images
        self.turn = Turn()
        self._call: Call | None = None
        self._signatures = adapter.signatures(decoder is not None)
        self._masks, self._kv_class = MaskMakers.resolve(), stock.kv_class()
        needs = frozenset() if front is None else front.method.needs
        blocks = () if front is None else blocks_read(front.method, adapter.tower_depth)
        self._reads_text = bool(needs & READS_TEXT)
        self._trims = decoder is not None and decoder.method.trim_early_cache
        self._closes_up = any(cut.closes_up for cut in cuts)
        self._tracer = CallTracer.of(
            adapter.record_trace,
            {_stage_in_language(cut): cut.positions for cut in cuts},
        )
        self.decoder: DecoderCuts | None = None
        self._undo = UndoStack()
        inner, language = adapter.inner, adapter.language_model
        self._carries_state, self._chunked = adapter.carries_state, adapter.chunked
        self._answers: Tensor | None = None
        self._inside = False  # whether a call of the whole model is running
        self._alone = False  # whether the inner model was called directly
        try:
            self._hook(adapter.model.register_forward_pre_hook, self._enter)
            self._hook(adapter.model.register_forward_hook, self._leave, always_call=True)
            self._hook(inner.register_forward_pre_hook, self._enter_model)
            self._hook(inner.register_forward_hook, self._leave_model, always_call=True)
            self._hook(language.register_forward_pre_hook, self._enter_language)
            self._hook(language.register_forward_hook, self._leave_language)
            self._hook(adapter.rotary.register_forward_pre_hook, self._set_positions)
            for i in range(len(adapter.layers)) if self._chunked else ():
                self._hook_attention(i)
            self._undo.do(functools.partial(self._watch_encoders, needs, blocks))
            if tower is not None:
                self._undo.do(functools.partial(self._cut_tower, tower))
            self._undo.do(lambda: refuse_chunked_prefill(adapter.model))
            tokens = [adapter.token_id(modality) for modality in adapter.modalities]
            self._undo.do(lambda: guard_batches(adapter.model, tokens))
            self._undo.do(lambda: guard_managers(adapter.model, tokens, self.lease))
            by_text = self._reads_text or decoder is not None
            self._undo.do(lambda: guard_drafts(adapter, self._cuts, by_text))
            self._chooser = chooser or MethodChooser(adapter, self._capture, tower, front, decoder)
            self._take, self._give = untraced(self.turn.take), untraced(self.turn.give)
            self._before_language = untraced(self._chooser.before_language)
            self._before_layers = untraced(self._chooser.before_layers)
            self._commit_images = untraced(self._commit)
            self._check_images = untraced(self._refuse_lost_images)
            self._check_positions = untraced(refuse_bent_positions)
            if decoder is not None:
                self._undo.do(functools.partial(self._cut_layers, decoder))
        except BaseException:  # a failed installation must leave no hook behind
            self.remove()
            raise

    def _hook(self, register: Callable[..., Any], hook: Callable[..., Any], **options: Any) -> None:
        self._undo.do(lambda: register(hook, with_kwargs=True, **options).remove)

    def _hook_attention(self, i: int) -> None:
        """Let the attention module of a layer count stored tokens only, as its chunks are counted."""

        def set_attending(attending: bool) -> None:
            layer = None if self._call is None else self._call.layer(i)
            if isinstance(layer, PrunedLayer):
                layer.attending = attending

        attention = self.adapter.attention(i)
        self._undo.do(lambda: attention.register_forward_pre_hook(lambda *_: set_attending(True)).remove)
        after = functools.partial(attention.register_forward_hook, always_call=True)
        self._undo.do(lambda: after(lambda *_: set_attending(False)).remove)

    def _watch_encoders(self, needs: frozenset[str], blocks: Sequence[int]) -> Callable[[], None]:
        self._capture = FeatureCapture(self.adapter, needs, blocks, self.turn)
        return self._capture.remove

    def _cut_tower(self, cut: Cut) -> Callable[[], None]:
        return TowerCuts(self.adapter, cut, self._capture, self._tracer is not None).remove

    def _cut_layers(self, cut: Cut) -> Callable[[], None]:
        schedule, signature = cut.method.schedule, self._signatures.layer
        assert schedule is not None and signature is not None  # refused by the adapter's check
        self.decoder = DecoderCuts(
            self.adapter,
            signature,
            self._masks,
            self._chooser,
            schedule.boundaries(len(self.adapter.layers)),
            cut.closes_up,
            bool(cut.method.needs & ATTENTION_SIGNALS),
            lambda: self._call,
            self._tracer,
        )
        return self.decoder.remove

    def remove(self) -> None:
        """Remove every hook; caches filled while pruned raise an error from now on.

        Waits until a call in another thread is done. If interrupted, it can be called again.
        """
        acquired = self.turn.take()
        try:
            self.lease.active = False
            self._undo.run()
        finally:
            if acquired:
                self.turn.give()

    # -- the model: one call at a time

    def _enter(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        refuse_replica(module)
        if not is_exporting() and self._take_turn():
            self._answers = self._signatures.outer.read(OuterCall, args, kwargs).answers
            self._inside = True

    def _leave(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        self._answers, self._inside = None, False
        if not is_exporting():
            self._give()

    def _take_turn(self) -> bool:
        """Acquire the turn; False if this thread already holds it, or the pruning was removed meanwhile."""
        acquired = self._take(MODULE_CALLS)
        if acquired and not self.lease.active:  # the hooks that would release the turn are gone
            self._give()
            return False
        return acquired

    # -- the inner model: whether a call has images

    def _enter_model(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        refuse_replica(module)
        # inside a compiled forward, the whole model's hooks ran before, uncompiled
        if is_exporting() or (torch.compiler.is_compiling() and self._inside):
            self._alone = False
        else:
            self._alone = self._take_turn()
            if not self.lease.active:
                return
            if self._alone:  # clear the state of an interrupted call of the whole model
                self._answers, self._inside = None, False
        self._call = None
        call = self._signatures.inner.read(ModelCall, args, kwargs)
        self.brought = call if call.brings_images else None
        if not stock.has_layers(call.kv):
            refuse_images_into(call)
            return
        refuse_other_modalities(call, self.adapter.modalities)
        if self.brought is not None and self.decoder is not None:
            refuse_recomputing(self.adapter.layers)
            if self.decoder.looks:
                refuse_unread_past(call.kv)
        refuse_unknown_layers(call)
        if self._trims:
            refuse_untrimmed(call)
        refuse_unknown_masks(call)
        if self.brought is None:
            if not is_exporting():
                self._check_images(call)
        elif not call.encoded:
            self._capture.forget()  # this call encodes its own images

    def _refuse_lost_images(self, call: ModelCall) -> None:
        """Refuse a call without images whose prompt has placeholders for images that were just encoded."""
        if call.ids is None or call.ids.shape[1] == 1:
            return
        for modality in self._capture.waiting():
            if bool((call.ids == self.adapter.token_id(modality)).any()):
                raise UnsupportedCallError(
                    f"{modality} features were encoded, but the call whose prompt has placeholders for them "
                    "does not pass them, so nothing could be pruned; pass pixel values with the prompt (a "
                    "pruned model cannot be its own assistant_model: transformers passes none to it)"
                )

    def _leave_model(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if self.brought is not None:
            self._capture.forget(again=bool(self.brought.encoded))
        self.brought, self._call = None, None
        if self._alone:
            self._give()

    # -- the language model: choose and gather rows, then expand the output and update the cache

    def _enter_language(self, module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        signature = self._signatures.language
        language = signature.read(LanguageCall, args, kwargs)
        # the language model called on its own, or with a paged cache, which holds nothing that was pruned
        if language.embeds is None or not stock.has_layers(language.kv):
            self._call = None
            return args, kwargs
        if is_exporting():
            if self.brought is not None:
                check_exported(self._cuts, self._capture.lengths(), len(self.adapter.layers))
            return args, kwargs
        receipts.check_passed(language, self._kv_class)
        if self.brought is not None and not torch.compiler.is_compiling() and not self.turn.held():
            self.brought = None  # left by an interrupted call
        packs = self.brought is not None and stock.packs(module, language.kv, language.caching)
        call = self._call = Call.read(language, self.brought, packs, self._answers)
        refuse_ambiguous_packing(call, language, self.adapter.position_axes)
        refuse_packing_into_states(call, self._carries_state)
        if self._trims and self.brought is not None:
            refuse_answer_before_trimming(module, call)
        first = call.layer(call.counting)
        shift = first.shift if isinstance(first, PrunedLayer) else None
        if shift is not None:  # continue from the renumbered positions
            positions = call.positions_of(language.embeds, language.positions)
            language.positions = positions - shift.to(positions.device)
        if self.brought is not None:
            self._before_language(call, self.brought)
            if self._closes_up and (call.front is not None or self.decoder is not None):
                self._check_positions(call, language.positions)
        if call.front is not None:
            self._gather_kept(call, call.front, language)
        elif isinstance(first, PrunedLayer):
            flat = self._counted_mask(call, first.mask(call.n_new, call.seen), language.embeds, call.n_new)
            language.mask = masks_of_kept(self._masks, module.config, call, language.mask, flat, None)
        if self.decoder is not None and self.brought is not None:
            self._before_layers(call)
        if self._tracer is not None:
            self._tracer.enter_language(language.mask)
        return signature.write(language)

    def _gather_kept(self, call: Call, front: RemainingRows, language: LanguageCall) -> None:
        """Replace the language model's arguments by those of the kept rows."""
        embeds, plan = call.entered, front.plan
        assert embeds is not None
        refuse_padding_inside(call, plan.valid, self._chunked)
        call.positions = front.positions(call.positions_of(embeds, language.positions))
        n_new = plan.index.shape[1]
        call.entered, call.entered_real = take(embeds, plan.index), plan.valid
        language.embeds = call.entered
        # pass consecutive positions (gaps would look like packed sequences), restarting at each packed
        # sequence; the rotary embedding gets the real ones from `_set_positions`
        if call.sequences is None:
            language.positions = (torch.arange(n_new, device=embeds.device) + call.n_seen)[None]
            flat = call.mask_of_rows(call.counting, n_new, plan.valid)
            flat = self._counted_mask(call, flat, embeds, n_new)
        else:
            call.entered_sequences = plan.gather(call.sequences, -1)
            language.positions = self._restarting_positions(call, language.positions)
            flat = None
        config = self.adapter.language_model.config
        language.mask = masks_of_kept(self._masks, config, call, language.mask, flat, plan)
        self.adapter.prune_arguments(language, plan)
        refuse_unknown_rows(language, len(embeds), call.n_new)

    def _counted_mask(self, call: Call, flat: Tensor | None, embeds: Tensor, n_new: int) -> Tensor | None:
        """The mask with the dropped tokens of the cache hidden, where borders of chunks are counted by it."""
        first = call.layer(call.counting)
        if flat is None and self._chunked and isinstance(first, PrunedLayer):
            return first.full_mask(len(embeds), n_new, embeds.device)
        return flat

    def _restarting_positions(self, call: Call, passed: Tensor | None) -> Tensor | None:
        """Positions that separate packed sequences, in the shape that the language model takes."""
        positions = call.numbering(-1)
        assert positions is not None and passed is not None
        return positions if passed.ndim == 2 else positions.expand(len(passed), -1, -1)

    def _set_positions(
        self, module: Any, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        call = self._call
        if call is None:
            return None
        signature = self._signatures.rotary
        rotary = signature.read(RotaryCall, args, kwargs)
        receipts.check_positions(call, rotary.positions)
        call.rotates = True
        if call.positions is None:
            call.positions = rotary.positions
            return None
        rotary.positions = call.positions
        return signature.write(rotary)

    def _leave_language(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        call, self._call = self._call, None
        if call is None:
            return
        kv = stock.output_field(output, "kv")
        receipts.check_returned(call, module, kv)
        n_layers = len(self.adapter.layers)
        if call.front is not None or call.remaining:
            rows = stock.output_field(output, "rows")
            receipts.check_output(call, rows, call.n_new - call.dropped(n_layers))
            expanded = call.widen(rows, n_layers)
            stock.set_output_field(output, "rows", expanded)
            states = stock.output_field(output, "states")
            if states is not None:  # entry i is the output of layer i - 1; the last is `rows` itself
                widened = list(states)
                for i, state in enumerate(states):
                    if state is not None:
                        widened[i] = expanded if state is rows else call.widen(state, max(0, i - 1))
                stock.set_output_field(output, "states", tuple(widened))
        commit = self._commit_images if call.images else self._commit
        commit(call, kv)
        if self._tracer is not None:
            self._tracer.leave_language(call, kv)

    def _commit(self, call: Call, kv: Any) -> None:
        """Record in each cache layer what was dropped, and report."""
        kept = unpruned = trimmed = 0
        tail = 0 if call.front is None or call.remaining or self._reads_text else call.front.plan.tail
        is_cut = call.front is not None or bool(call.remaining)
        if not is_cut and not call.images and call.real is None:
            return  # nothing was dropped or reported, as in a decoding step
        for i, layer in enumerate(stock.layers_of(kv)):
            if not stock.holds_tokens(layer):
                continue  # a state of the kept rows, which needs no change
            if is_cut:
                receipts.check_stored(call, i, layer)
            # the layer whose input this one's cache holds from now on
            held = len(self.adapter.layers) if self._trims else i
            if call.front is not None or call.remaining_at(held) is not None:
                before = call.stored_at(i)
                if not isinstance(layer, PrunedLayer):
                    layer = as_pruned(kv, i, self.lease)
                    layer.valid = call.past if before else None
                layer.lease = self.lease
                rows = call.remaining_among(i, held)
                if rows is not None:
                    stock.keep_rows(layer, before, call.n_new - call.dropped(i), rows)
                    receipts.check_stored(call, i, layer, held)
                tokens = call.tokens(held, before, layer)
                # positions stay those at which this layer rotated its keys
                layer.commit(call.dropped(held), before, call.valid(held), call.shift(i), tokens, tail)
            elif isinstance(layer, PrunedLayer) and call.real is not None:
                layer.commit(0, call.stored_at(i), call.real, None, None)  # an unpruned chunk with padding
            if call.images:
                stored = stored_length(layer)
                entered, remained = (call.n_new - call.dropped(at) for at in (i, held))
                kept += stock.bytes_held(layer, remained, stored)
                trimmed += stock.bytes_held(layer, entered - remained, stored)
                unpruned += stock.bytes_held(layer, call.n_new, stored)
        if is_cut:
            guard_states(kv)
        if call.images:
            images = tuple(image.report() for image in call.images)
            report = PruningReport(images, kept, unpruned, call.seconds, tuple(call.towers), trimmed)
            self.record(report)


def _stage_in_language(cut: Cut) -> str:
    """The stage at which the language model gets fewer rows: those dropped in the tower never enter it."""
    return "decoder" if cut.method.stage == "decoder" else "projector"
