# SPDX-License-Identifier: Apache-2.0
"""What the vision side computed for the images of a call, caught where it passes.

`generate` encodes images before it calls the model (and before it repeats rows for beams), a plain forward
does it inside; both go through `get_image_features` of the inner model, which is where we look.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .tap import AttentionTap

if TYPE_CHECKING:
    from .vlm import TransformersAdapter

FROM_PROJECTOR = frozenset({"pre_features"})
FROM_ATTENTION = frozenset({"cls_attention", "key_metric", "received_attention"})
FROM_TOWER = frozenset({"cls_hidden"})


@dataclass
class Seen:
    """What passed during one encoding: projector inputs, tower outputs, queries and keys."""

    projector_inputs: list[Tensor] = field(default_factory=list)
    tower_outputs: list[Any] = field(default_factory=list)
    attention: list[tuple[Tensor, Tensor, float | None]] = field(default_factory=list)


@dataclass
class Encoded:
    """The images of one encoding call: rows of each, what passed, the call's arguments.

    `newlines` marks separator tokens of each image (N,), where the adapter tells them by their rows.
    """

    lengths: list[int]
    seen: Seen
    arguments: dict[str, Any]
    output: weakref.ref[Any] = field(repr=False)
    newlines: list[Tensor] = field(default_factory=list)


class FeatureCapture:
    """Watches `get_<modality>_features` of a model and whatever the signals in `needs` are made of."""

    def __init__(self, adapter: TransformersAdapter, needs: frozenset[str]) -> None:
        self._encoded: dict[str, Encoded] = {}
        self._seen = Seen()
        self._encoding, self._adapter = False, adapter
        self._undo: list[Callable[[], None]] = []
        for modality in adapter.modalities:
            self._watch(adapter.inner, modality)
        if needs & FROM_PROJECTOR:
            projector = adapter.projector_module
            self._undo.append(projector.register_forward_pre_hook(self._on_projector).remove)
        if needs & FROM_TOWER:
            self._undo.append(adapter.vision_tower.register_forward_hook(self._on_tower).remove)
        attention = adapter.vision_attention() if needs & FROM_ATTENTION else None
        if attention is not None:
            self._undo.append(AttentionTap(attention, self._on_attention).remove)

    def encoded(self, modality: str, given: Any = None) -> Encoded | None:
        """Return what was encoded last; None if `given` (a precomputed output) is something else."""
        found = self._encoded.get(modality)
        if found is None or (given is not None and found.output() is not given):
            return None
        return found

    def forget(self) -> None:
        """Drop what was caught."""
        self._encoded.clear()
        self._seen = Seen()

    def remove(self) -> None:
        """Stop watching; nothing stays on the model."""
        self.forget()
        while self._undo:
            self._undo.pop()()

    def _on_projector(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._seen.projector_inputs.append(args[0].detach())

    def _on_attention(self, query: Tensor, key: Tensor, scaling: float | None) -> None:
        self._seen.attention.append((query.detach(), key.detach(), scaling))

    def _on_tower(self, module: nn.Module, args: Any, output: Any) -> None:
        self._seen.tower_outputs.append(output)

    def _watch(self, inner: nn.Module, modality: str) -> None:
        name = f"get_{modality}_features"
        original = getattr(inner, name, None)
        if original is None:
            return
        signature = inspect.signature(original)

        @functools.wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if self._encoding:  # videos that are encoded by way of the function for images
                return original(*args, **kwargs)
            self._seen, self._encoding = Seen(), True
            try:
                output = original(*args, **kwargs)
            finally:
                self._encoding = False
            rows = getattr(output, "pooler_output", None)
            if rows is not None:
                arguments = signature.bind_partial(*args, **kwargs).arguments
                arguments = {**arguments, **arguments.pop("kwargs", {})}
                lengths, newlines = self._adapter.lengths(rows), self._adapter.newlines(rows)
                self._encoded[modality] = Encoded(
                    lengths, self._seen, arguments, weakref.ref(output), newlines
                )
            self._seen = Seen()
            return output

        # an attribute of this one object, which its class's method shows through again once it is deleted
        object.__setattr__(inner, name, watched)
        self._undo.append(lambda: object.__delattr__(inner, name))
