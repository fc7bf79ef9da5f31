# SPDX-License-Identifier: Apache-2.0
"""What the vision side computed for the images of a call, caught where it passes.

`generate` encodes images before it calls the model (and before it repeats rows for beams), a plain forward
does it inside; both go through `get_image_features` of the inner model, which is where we look.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass
class Encoded:
    """The images of one encoding call: rows of each, what went into the projector, the call's arguments."""

    lengths: list[int]
    projector_inputs: list[Tensor]
    arguments: dict[str, Any]
    output: weakref.ref[Any] = field(repr=False)


class FeatureCapture:
    """Watches `get_<modality>_features` of a model and, if asked to, its projector's inputs."""

    def __init__(self, inner: nn.Module, modalities: Sequence[str], projector: nn.Module | None) -> None:
        self._encoded: dict[str, Encoded] = {}
        self._inputs: list[Tensor] = []
        self._undo: list[Callable[[], None]] = []
        for modality in modalities:
            self._watch(inner, modality)
        if projector is not None:
            self._undo.append(projector.register_forward_pre_hook(self._on_projector).remove)

    def encoded(self, modality: str, given: Any = None) -> Encoded | None:
        """Return what was encoded last; None if `given` (a precomputed output) is something else."""
        found = self._encoded.get(modality)
        if found is None or (given is not None and found.output() is not given):
            return None
        return found

    def forget(self) -> None:
        """Drop what was caught."""
        self._encoded.clear()
        self._inputs.clear()

    def remove(self) -> None:
        """Stop watching; nothing stays on the model."""
        self.forget()
        while self._undo:
            self._undo.pop()()

    def _on_projector(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._inputs.append(args[0].detach())

    def _watch(self, inner: nn.Module, modality: str) -> None:
        name = f"get_{modality}_features"
        original = getattr(inner, name, None)
        if original is None:
            return
        signature = inspect.signature(original)

        @functools.wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self._inputs.clear()
            output = original(*args, **kwargs)
            rows = getattr(output, "pooler_output", None)
            if rows is not None:
                arguments = signature.bind_partial(*args, **kwargs).arguments
                arguments = {**arguments, **arguments.pop("kwargs", {})}
                lengths = [image.shape[-2] for image in rows]
                self._encoded[modality] = Encoded(lengths, list(self._inputs), arguments, weakref.ref(output))
            self._inputs.clear()
            return output

        # an attribute of this one object, which its class's method shows through again once it is deleted
        object.__setattr__(inner, name, watched)
        self._undo.append(lambda: object.__delattr__(inner, name))
