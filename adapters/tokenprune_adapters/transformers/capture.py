# SPDX-License-Identifier: Apache-2.0
"""Record what the vision tower and the projector compute for the images of a call.

`generate` encodes images before it calls the model (and before it repeats rows for beams), a plain forward
encodes them itself; both call `get_image_features` of the inner model, which is therefore wrapped.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import stock
from .encoded import Encoded, Encoding, Seen
from .exporting import is_exporting
from .facts import VisionLanguageFacts
from .interposed import interpose
from .refusals import refuse_changed_settings
from .resolved import encoder_signature
from .tap import AttentionFunctionTap
from .tower.received import ReceivedTap
from .turn import Turn
from .undo import UndoStack

FROM_PROJECTOR = frozenset({"pre_features"})
FROM_ATTENTION = frozenset({"cls_attention", "key_metric", "received_attention"})
FROM_TOWER = frozenset({"cls_hidden"})


class FeatureCapture:
    """Wraps `get_<modality>_features` of a model and records the inputs of the signals in `needs`.

    `blocks` are those of the tower of which `tower_received` is read. `running` is the encoding that is
    running, None outside of one.
    """

    running: Encoding | None

    def __init__(
        self, adapter: VisionLanguageFacts, needs: frozenset[str], blocks: Sequence[int], turn: Turn
    ) -> None:
        self._adapter, self._turn = adapter, turn
        self._encoded: dict[str, list[Encoded]] = {}  # encodings whose output is still alive
        self._current: dict[str, Encoded] = {}  # encodings of the current call
        self._seen, self.running = Seen(), None
        self._exported: list[int] = []
        self._waiting: set[str] = set()  # modalities encoded and not yet passed to a call
        self._undo = UndoStack()
        try:
            self._install(adapter, needs)
            self._tap_blocks(adapter, blocks)
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

    def _tap_blocks(self, adapter: VisionLanguageFacts, blocks: Sequence[int]) -> None:
        parts = adapter.tower() if blocks else None
        for block in blocks:
            assert parts is not None and parts.attention is not None  # refused by the adapter's check
            note = functools.partial(self._on_received, block)
            tap = functools.partial(ReceivedTap, parts.attention(block), note)
            self._undo.do(lambda tap=tap: tap().remove)  # type: ignore[misc]

    def encoded(self, modality: str, output: Any = None) -> Encoded | None:
        """Return the current call's encoding, or the one that returned `output`; None if there is none."""
        self._waiting.discard(modality)
        if output is None:
            return self._current.get(modality)
        encodings = self._encoded.get(modality, [])
        matches = [encoded for encoded in encodings if encoded.output() is output]
        if not matches:  # hooks that move inputs between devices rebuild the output, with equal rows
            rows = stock.features_of(output)
            matches = [encoded for encoded in encodings if _equal(encoded.rows, rows)]
        return next(iter(matches), None)

    def waiting(self) -> frozenset[str]:
        """Modalities that were encoded and not yet passed to a call."""
        return frozenset(self._waiting)

    def lengths(self) -> list[int]:
        """Number of tokens of each image encoded while torch.export traces the call."""
        return self._exported

    def forget(self, again: bool = True) -> None:
        """Discard the current call's encodings.

        With `again`, outputs that are still alive can be passed to a later call; not so if the call encoded
        its images itself and returned them.
        """
        discarded = () if again else tuple(self._current.values())
        self._exported = []
        self._waiting.clear()
        self._current, self._seen = {}, Seen()
        self._encoded = {
            name: [kept for kept in _alive(encodings) if not any(kept is encoded for encoded in discarded)]
            for name, encodings in self._encoded.items()
        }

    def remove(self) -> None:
        """Remove the wrappers and hooks from the model."""
        self._current, self._encoded, self._seen = {}, {}, Seen()
        self._undo.run()

    def _on_projector(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._seen.projector_inputs.append(args[0].detach())

    def _on_attention(self, query: Tensor, key: Tensor, scaling: float | None) -> None:
        self._seen.attention.append((query.detach(), key.detach(), scaling))

    def _on_received(self, block: int, received: Tensor) -> None:
        if self.running is not None:
            self._seen.received.setdefault(block, []).append(received)

    def _on_tower(self, module: nn.Module, args: Any, output: Any) -> None:
        self._seen.tower_outputs.append(self._adapter.class_rows(output))

    def _watch(self, inner: nn.Module, modality: str) -> None:
        name = stock.encoder_name(modality)
        words, optional = self._adapter.encoder_words(modality)
        signature = encoder_signature(inner, modality, words, optional)
        original = getattr(inner, name)
        config = self._adapter.model.config
        settings = stock.configured(config, words)  # they decided which modules are hooked

        def encode_and_record(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(args, kwargs)
            arguments = {word: bound.get(name) for word, name in signature.names.items()}
            refuse_changed_settings(settings, stock.configured(config, words))
            self._adapter.check_arguments(arguments)
            if self.running is not None:  # a video encoder that calls the image encoder
                return original(*args, **kwargs)
            self._seen = Seen()
            self.running = Encoding(arguments, self._seen)
            try:
                output = original(*args, **kwargs)
            finally:
                self.running = None
            if is_exporting():
                self._exported += self._adapter.lengths(stock.features_of(output))
            elif not isinstance(output, tuple):  # which only a direct caller requests; no model call takes it
                rows = stock.features_of(output)
                lengths, newlines = self._adapter.lengths(rows), self._adapter.newlines(rows)
                encoded = Encoded(lengths, self._seen, arguments, rows, weakref.ref(output), newlines)
                self._encoded[modality] = [*_alive(self._encoded.get(modality, [])), encoded]
                self._current[modality] = encoded
                self._waiting.add(modality)
            self._seen = Seen()
            return output

        def encode_in_turn(*args: Any, **kwargs: Any) -> Any:
            acquired = not torch.compiler.is_compiling() and self._turn.take()
            try:
                return encode_and_record(*args, **kwargs)
            finally:
                if acquired:
                    self._turn.give()

        self._undo.do(lambda: interpose(inner, name, encode_in_turn))


def _alive(encodings: list[Encoded]) -> list[Encoded]:
    return [encoded for encoded in encodings if encoded.output() is not None]


def _equal(rows: Any, other: Any) -> bool:
    """Whether rows are equal, possibly on different devices."""
    if isinstance(rows, Tensor) and isinstance(other, Tensor):
        return rows.shape == other.shape and (rows is other or torch.equal(rows, other.to(rows.device)))
    if isinstance(rows, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(rows) == len(other) and all(map(_equal, rows, other))
    return False
