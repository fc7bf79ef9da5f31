# SPDX-License-Identifier: Apache-2.0
"""What the vision side computed for the images of a call, caught where it passes.

`generate` encodes images before it calls the model (and before it repeats rows for beams), a plain forward
does it inside; both go through `get_image_features` of the inner model, which is where we look.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from . import stock
from .encoded import Encoded, Seen
from .exporting import is_exporting
from .facts import VisionLanguageFacts
from .interposed import interpose
from .refusals import refuse_changed_settings
from .resolved import encoder_signature
from .tap import AttentionFunctionTap
from .turn import Turn
from .undo import UndoStack

FROM_PROJECTOR = frozenset({"pre_features"})
FROM_ATTENTION = frozenset({"cls_attention", "key_metric", "received_attention"})
FROM_TOWER = frozenset({"cls_hidden"})


class FeatureCapture:
    """Watches `get_<modality>_features` of a model and whatever the signals in `needs` are made of."""

    def __init__(self, adapter: VisionLanguageFacts, needs: frozenset[str], turn: Turn) -> None:
        self._adapter, self._turn = adapter, turn
        self._encoded: dict[str, list[Encoded]] = {}  # what somebody still has the output of
        self._own: dict[str, Encoded] = {}  # what the current call encoded
        self._seen, self._encoding = Seen(), False
        self._exported: list[int] = []
        self._waiting: set[str] = set()  # modalities encoded since a call brought images
        self._undo = UndoStack()
        try:
            self._install(adapter, needs)
        except BaseException:
            self.remove()
            raise

    def _install(self, adapter: VisionLanguageFacts, needs: frozenset[str]) -> None:
        for modality in adapter.modalities:
            self._watch(adapter.inner, modality)
        if needs & FROM_PROJECTOR:
            projector = adapter.projector_module
            self._undo.do(lambda: projector.register_forward_pre_hook(self._on_projector).remove)
        if needs & FROM_TOWER:
            self._undo.do(lambda: adapter.vision_tower.register_forward_hook(self._on_tower).remove)
        attention = adapter.vision_attention() if needs & FROM_ATTENTION else None
        if attention is not None:
            self._undo.do(lambda: AttentionFunctionTap(attention, self._on_attention).remove)

    def encoded(self, modality: str, output: Any = None) -> Encoded | None:
        """Return what the current call encoded, or the encoding that made `output`; None: neither."""
        self._waiting.discard(modality)
        if output is None:
            return self._own.get(modality)
        encodings = self._encoded.get(modality, [])
        same = [encoded for encoded in encodings if encoded.output() is output]
        if (
            not same
        ):  # hooks that move a model's inputs between devices rebuild the output, with the same rows
            rows = stock.output_field(output, "features")
            same = [encoded for encoded in encodings if _equal(encoded.rows, rows)]
        return next(iter(same), None)

    def waiting(self) -> frozenset[str]:
        """Modalities that were encoded and not brought by a call since."""
        return frozenset(self._waiting)

    def lengths(self) -> list[int]:
        """Tokens of each image that is encoded in the call that torch.export follows."""
        return self._exported

    def forget(self, again: bool = True) -> None:
        """Let go of what a call encoded.

        Outputs that somebody still has may be brought by a later call `again`; not where the call encoded its
        images itself, and returned them.
        """
        own = () if again else tuple(self._own.values())
        self._exported = []
        self._waiting.clear()
        self._own, self._seen = {}, Seen()
        self._encoded = {
            name: [made for made in _alive(encodings) if not any(made is one for one in own)]
            for name, encodings in self._encoded.items()
        }

    def remove(self) -> None:
        """Stop watching; nothing stays on the model."""
        self._own, self._encoded, self._seen = {}, {}, Seen()
        self._undo.run()

    def _on_projector(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._seen.projector_inputs.append(args[0].detach())

    def _on_attention(self, query: Tensor, key: Tensor, scaling: float | None) -> None:
        self._seen.attention.append((query.detach(), key.detach(), scaling))

    def _on_tower(self, module: nn.Module, args: Any, output: Any) -> None:
        self._seen.tower_outputs.append(self._adapter.class_rows(output))

    def _watch(self, inner: nn.Module, modality: str) -> None:
        name = stock.encoder_name(modality)
        words, optional = self._adapter.encoder_words(modality)
        signature = encoder_signature(inner, modality, words, optional)
        original = getattr(inner, name)
        config = self._adapter.model.config
        settings = stock.configured(config, words)  # hooks are where these say

        def watched(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(args, kwargs)
            arguments = {word: bound.get(own) for word, own in signature.names.items()}
            refuse_changed_settings(settings, stock.configured(config, words))
            self._adapter.check_arguments(arguments)
            if self._encoding:  # videos that are encoded by way of the function for images
                return original(*args, **kwargs)
            self._seen, self._encoding = Seen(), True
            try:
                output = original(*args, **kwargs)
            finally:
                self._encoding = False
            if is_exporting():
                self._exported += self._adapter.lengths(stock.output_field(output, "features"))
            elif not isinstance(output, tuple):  # a caller of his own may ask for one; no model call takes it
                rows = stock.output_field(output, "features")
                lengths, newlines = self._adapter.lengths(rows), self._adapter.newlines(rows)
                made = Encoded(lengths, self._seen, arguments, rows, weakref.ref(output), newlines)
                self._encoded[modality] = [*_alive(self._encoded.get(modality, [])), made]
                self._own[modality] = made
                self._waiting.add(modality)
            self._seen = Seen()
            return output

        def in_turn(*args: Any, **kwargs: Any) -> Any:
            mine = not torch.compiler.is_compiling() and self._turn.take()
            try:
                return watched(*args, **kwargs)
            finally:
                if mine:
                    self._turn.give()

        self._undo.do(lambda: interpose(inner, name, in_turn))


def _alive(encodings: list[Encoded]) -> list[Encoded]:
    return [encoded for encoded in encodings if encoded.output() is not None]


def _equal(one: Any, other: Any) -> bool:
    """Whether rows are the same, on whatever device."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and (one is other or torch.equal(one, other.to(one.device)))
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return False
