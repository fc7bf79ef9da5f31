# SPDX-License-Identifier: Apache-2.0
"""What differs between vision-language models of transformers; the defaults fit most of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from tokenprune import Cut, IncompatibleError, Layout, ModelAdapter, Projector, PruningReport
from tokenprune.projector import in_float32, weights_mark

from .capture import Encoded
from .plan import RowPlan
from .tap import ATTENTION_SIGNALS

DECODER_SIGNALS = ATTENTION_SIGNALS | {"hidden", "text_hidden", "final_norm", "rotary"}
DECODER_SIGNALS |= {"position_ids", "text_position_ids"}
ImageSignal = Callable[[Encoded, int], Any]


class TransformersAdapter(ModelAdapter):
    """A model of transformers 5 whose inner model scatters image features into the text embeddings."""

    modalities: tuple[str, ...] = ("image",)
    pixel_arguments: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_values_videos", "mm_encoder_outputs")
    model: Any
    _projector: tuple[Any, Projector] | None = None

    # -- where things are

    @property
    def inner(self) -> Any:
        """The module that scatters image features into the embeddings and calls the language model."""
        return self.model.model

    @property
    def language_model(self) -> Any:
        """The stack of decoder layers."""
        return self.inner.language_model

    @property
    def layers(self) -> Any:
        """The decoder layers."""
        return self.language_model.layers

    @property
    def rotary(self) -> Any:
        """The language model's rotary embedding."""
        return self.language_model.rotary_emb

    @property
    def projector_module(self) -> nn.Module:
        """The module between tower and language model."""
        module: nn.Module = self.inner.multi_modal_projector
        return module

    @property
    def vision_tower(self) -> Any:
        """The vision tower."""
        return self.inner.vision_tower

    def vision_attention(self) -> nn.Module | None:
        """The attention module of the tower layer the features come from; None: its attention is not seen."""
        return None

    def token_id(self, modality: str) -> int:
        """Placeholder token of a modality."""
        token: int = getattr(self.model.config, f"{modality}_token_id")
        return token

    @property
    def slides(self) -> bool:
        """Whether some decoder layers see only a window of what came before."""
        config = self.language_model.config
        kinds = getattr(config, "layer_types", None)
        if kinds is None:
            return getattr(config, "sliding_window", None) is not None
        return "sliding_attention" in kinds

    @property
    def positions(self) -> tuple[str, ...]:
        """Both rules; only contiguous where layers slide: their windows count what is stored."""
        return ("contiguous",) if self.slides else ("contiguous", "original")

    def lengths(self, rows: Any) -> list[int]:
        """Tokens of each image, from what `get_image_features` gives for the language model."""
        return [image.shape[:-1].numel() for image in rows]

    def newlines(self, rows: Any) -> list[Tensor]:
        """Which tokens of each image are separators, (N,) bool each; empty where known otherwise."""
        return []

    def prune_arguments(self, kwargs: dict[str, Any], plan: RowPlan) -> None:
        """Cut whatever else the language model is handed for each token."""

    # -- what strategies may see

    @property
    def provides(self) -> Mapping[str, frozenset[str]]:
        """Signals by stage."""
        from_text = frozenset({"input_features", "text_embeds"})
        given = {"projector": from_text | {"projector", "text_ids"} | frozenset(self.image_signals())}
        if not self.why_no_decoder():
            given["decoder"] = from_text | DECODER_SIGNALS
        return given

    def why_no_decoder(self) -> str:
        """Why rows cannot be cut inside the decoder; nothing where they can."""
        if self.slides:
            return "some of its layers see only a window, and a window over fewer rows is not made yet"
        return ""

    def image_signals(self) -> Mapping[str, ImageSignal]:
        """Signals of the vision side: name -> function of what was encoded and the image's number."""
        return {}

    def projector(self) -> Projector:
        """The projector as strategies see it; any module, without a closed form."""
        return Projector(in_float32(self.projector_module))

    def projector_parts(self) -> nn.Module:
        """The module all of whose weights `projector` depends on."""
        return self.projector_module

    def current_projector(self) -> Projector:
        """The projector, made once and anew whenever its weights have changed."""
        mark = weights_mark(self.projector_parts())
        if self._projector is None or self._projector[0] != mark:
            self._projector = mark, self.projector()
        return self._projector[1]

    def check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Refuse a call's arguments that change what is encoded; nothing by default."""

    def layout(self, encoded: Encoded, number: int) -> Layout:
        """Where the tokens of one image lie."""
        raise NotImplementedError

    def final_norm(self, rows: Tensor) -> Tensor:
        """The language model's last norm."""
        normed: Tensor = self.language_model.norm(rows)
        return normed

    def rotate(self, hidden: Tensor, positions: Tensor) -> Any:
        """Rotary cosines and sines (B, P, d) at other positions than the model was called with."""
        return self.rotary.forward(hidden, positions)  # past our own hook

    # -- installing

    def check(self, cut: Cut) -> None:
        """Refuse what this model cannot do; see `ModelAdapter.check`."""
        why = self.why_no_decoder()
        if cut.method.stage == "decoder" and why:
            raise IncompatibleError(
                f"method {cut.method.name!r} cuts inside the decoder of {type(self.model).__name__}: {why}. "
                "Choose a method that cuts at the projector stage"
            )
        super().check(cut)
        if cut.method.stage != "decoder":
            self._check_projector(cut)
            return
        if cut.method.schedule is None:
            raise IncompatibleError(
                f"method {cut.method.name!r} cuts in the decoder but says at no layer; give layer= (the cut "
                "is made before it) or schedule={layer: rows, ...}"
            )
        first = cut.method.schedule.boundaries(len(self.layers))[0]
        if first == 0 and cut.method.needs & ATTENTION_SIGNALS:
            raise IncompatibleError(
                f"method {cut.method.name!r} looks at the attention of the layer before the cut, and "
                "there is none before layer 0; give layer= or schedule= from 1 on"
            )

    def _check_projector(self, cut: Cut) -> None:
        """Refuse to read weights that are elsewhere."""
        if "projector" in cut.method.needs and any(w.is_meta for w in self.projector_parts().parameters()):
            raise IncompatibleError(
                f"method {cut.method.name!r} reads the projector's weights, which are offloaded; keep the "
                "projector on a device (device_map), or choose a method without the signal projector"
            )

    def check_together(self, cuts: Sequence[Cut]) -> None:
        """At most one cut at each stage, the earlier stage first."""
        stages = [cut.method.stage for cut in cuts]
        if stages not in (["projector"], ["decoder"], ["projector", "decoder"]):
            raise IncompatibleError(
                f"cuts at the stages {', '.join(stages)} do not go together; give one method at the "
                "projector stage, then one at the decoder stage"
            )

    def install(self, cuts: Sequence[Cut], record: Callable[[PruningReport], None]) -> Callable[[], None]:
        """Hook the model."""
        from .engine import Engine  # needs transformers; looking strategies up does not

        return Engine(self, cuts, record).remove
