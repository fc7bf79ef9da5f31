# SPDX-License-Identifier: Apache-2.0
"""The base adapter of vision-language models of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from tokenprune import Cut, IncompatibleError, PruningReport
from tokenprune.at_hand import check_at_hand
from tokenprune.methods import STAGES
from tokenprune.towers.checks import OF_BLOCKS, blocks_read
from tokenprune.trial import Trial

from . import rehearsal, stock
from .engine import Engine
from .facts import VisionLanguageFacts
from .resolved import MaskMakers, encoder_signature
from .tap import ATTENTION_SIGNALS, check_attention
from .tower.checks import check_tower_cut
from .tower.signals import given_by as tower_signals

DECODER_SIGNALS = ATTENTION_SIGNALS | {"hidden", "text_hidden", "final_norm", "rotary"}
DECODER_SIGNALS |= {"position_ids", "text_position_ids"}


class TransformersAdapter(VisionLanguageFacts):
    """Adapter for a vision-language model of transformers; subclasses override what differs in a family."""

    can_trace: ClassVar[bool] = True
    can_trim: ClassVar[bool] = True
    classes: ClassVar[tuple[str, ...]] = ()  # transformers' classes of this family

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        """Whether the model's class, or one it derives from, is in `classes`."""
        return any(base.__name__ in cls.classes for base in type(model).__mro__)

    @property
    def provides(self) -> Mapping[str, frozenset[str]]:
        """Signals by stage."""
        from_text = frozenset({"input_features", "text_embeds"})
        signals = {"projector": from_text | {"projector", "text_ids"} | frozenset(self.image_signals())}
        if self.tower_depth:
            signals["projector"] |= OF_BLOCKS
        if not self.why_no_decoder():
            absent = frozenset() if self.has_final_norm else {"final_norm"}
            signals["decoder"] = from_text | DECODER_SIGNALS - absent
        parts = self.tower()
        if parts is not None:
            signals["vision"] = tower_signals(parts)
        return signals

    def why_no_decoder(self) -> str:
        """Why rows cannot be dropped inside the decoder; empty if they can."""
        if self.slides:
            return "some of its layers use sliding windows or chunks, which are not supported there yet"
        if self.carries_state:
            return "some of its layers carry a state, which a row cannot leave in the middle of the decoder"
        return ""

    def check_model(self) -> None:
        """Check that the model and transformers have everything that the engine uses."""
        stock.warn_if_untested(stock.installed_version())
        self.check_parts()
        stock.check_outputs()
        stock.check_kv(self.language_model.config)
        stock.check_checkpointing(self.language_model)
        MaskMakers.resolve()
        stock.settings_method(self.model)
        stock.drafting_method(self.model)
        stock.batching_method(self.model)
        stock.manager_method(self.model)
        stock.embedding_table(self.model)
        self.signatures(False)
        if self.chunked and any(self.attention(i) is None for i in range(len(self.layers))):
            raise stock.missing("attention module in each layer", type(self.language_model).__name__)
        for modality in self.modalities:
            self.token_id(modality)
            encoder_signature(self.inner, modality, *self.encoder_words(modality))

    def check(self, cut: Cut) -> None:
        """Refuse a cut that this model cannot make; see `ModelAdapter.check`."""
        why = self.why_no_decoder()
        if cut.method.stage == "decoder" and why:
            raise IncompatibleError(
                f"method {cut.method.name!r} cuts inside the decoder of {type(self.model).__name__}: {why}. "
                "Choose a method that cuts at the projector stage"
            )
        if cut.method.stage == "vision":
            check_tower_cut(self, cut)
        super().check(cut)
        if cut.method.stage != "decoder":
            self._check_projector(cut)
            return
        if cut.method.schedule is None:
            raise IncompatibleError(
                f"method {cut.method.name!r} cuts in the decoder but names no layer; give layer= (the cut "
                "is made before it) or schedule={layer: rows, ...}"
            )
        if cut.method.trim_early_cache:
            self._check_trimming(cut)
        ranks = stock.tensor_parallel_size(self.model)
        if ranks > 1 and cut.method.needs & ATTENTION_SIGNALS:
            raise IncompatibleError(
                f"method {cut.method.name!r} reads the attention of decoder layers, whose heads are split "
                f"over {ranks} processes (tensor parallelism): each would choose by its own heads, and keep "
                "other tokens than the next. Choose a method that cuts at the projector stage (zoo-exact, "
                "divprune ...), or load the model into one process"
            )
        boundaries = cut.method.schedule.boundaries(len(self.layers))
        if boundaries[0] == 0 and cut.method.needs & ATTENTION_SIGNALS:
            raise IncompatibleError(
                f"method {cut.method.name!r} reads the attention of the layer before the cut, and "
                "there is none before layer 0; give layer= or schedule= from 1 on"
            )
        self.signatures(True)
        if cut.method.needs & ATTENTION_SIGNALS:
            for boundary in boundaries:
                for layer in (boundary - 1, boundary):  # a method may read either
                    where = f"layer {layer} of {type(self.language_model).__name__}"
                    check_attention(self.attention(layer), where)
                self.attention_signature(boundary)

    def _check_trimming(self, cut: Cut) -> None:
        """Refuse to trim the caches of earlier layers if they are not of a kind that allows it."""
        what = stock.why_not_trimmed(stock.new_kv(self.language_model.config))
        if what:
            raise IncompatibleError(
                f"method {cut.method.name!r} cannot trim the caches of the layers before its cut: "
                f"{type(self.model).__name__} uses {what}, from which tokens cannot be removed; pass "
                "trim_early_cache=False"
            )

    def _check_projector(self, cut: Cut) -> None:
        """Refuse projector weights that are not in memory, and blocks of the tower that cannot be read."""
        if "projector" in cut.method.needs:
            check_at_hand(self.projector_parts(), f"method {cut.method.name!r}", in_call=False)
        for block in blocks_read(cut.method, self.tower_depth):
            parts = self.tower()
            assert parts is not None and parts.attention is not None  # otherwise refused before
            check_attention(parts.attention(block), f"block {block} of {type(parts.module).__name__}")

    def check_together(self, cuts: Sequence[Cut]) -> None:
        """Refuse more than one cut per stage, and cuts that are not in the order of stages."""
        stages = [cut.method.stage for cut in cuts]
        if stages != [stage for stage in STAGES if stage in stages]:
            raise IncompatibleError(
                f"cuts at the stages {', '.join(stages)} cannot be combined; give at most one method at each "
                f"stage, in this order: {', '.join(STAGES)}"
            )
        rules = {cut.positions for cut in cuts if cut.method.stage != "decoder"}
        if len(rules) > 1:
            raise IncompatibleError(
                "the cuts before the language model have different position rules "
                f"({', '.join(sorted(rules))}), but it numbers its rows once; give positions="
            )

    def rehearse(self, cuts: Sequence[Cut]) -> str:
        """Rehearse the cuts on a few rows; see `rehearsal`."""
        return rehearsal.rehearse(self, list(cuts))

    def example_inputs(self, seed: int = 0) -> dict[str, Tensor]:
        """Random inputs of one row with one picture; see `promises.examples`."""
        from .promises.examples import example_inputs

        return example_inputs(self, seed)

    def trial(self, inputs: Any) -> Trial:
        """Checks against reference runs of stock code; see `promises`."""
        from .promises.trial import VisionLanguageTrial  # which brings the checks: not needed to prune

        return VisionLanguageTrial(self, inputs)

    def install(self, cuts: Sequence[Cut], record: Callable[[PruningReport], None]) -> Callable[[], None]:
        """Install the hooks, and return a function that removes them."""
        return Engine(self, cuts, record).remove
