# SPDX-License-Identifier: Apache-2.0
"""Run the vision tower once for all methods: repeated calls with equal pictures return the stored output.

The returned tensors are the same, so that answers cannot differ. For signals that methods read inside the
tower, the attention module that adapters hook is run again on its stored inputs. If other parts of the tower
have hooks, such as those of a cut there, or a configuration of their own, which adapters give to modules
whose attention is observed, the tower runs, and its output is not stored.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

import tokenprune


class TowerMemory:
    """Replaces a tower's forward and stores its last call; `n_runs` counts the calls of the real forward."""

    def __init__(self, tower: Any, attention: Any) -> None:
        self.tower, self.attention, self.n_runs = tower, attention, 0
        self._forward = self.__wrapped__ = tower.forward  # so that inspect.signature returns the tower's
        self._call: tuple[Any, Any] | None = None
        self._attended: list[tuple[Any, Any]] = []
        self._output: Any = None
        self._configurations = [(part, part.config) for part in self._others() if hasattr(part, "config")]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the tower, or return the stored output."""
        watched = self._is_watched()
        if self._call is not None and _same(self._call, (args, kwargs)) and not watched:
            if self.attention is not None:
                for inputs, options in self._attended:
                    self.attention(*inputs, **options)
            return copy.copy(self._output)
        self._call = None
        self._attended.clear()
        hook: Any = nullcontext()
        if self.attention is not None:
            hook = self.attention.register_forward_pre_hook(self._attend, with_kwargs=True)
        with hook:
            self._output = self._forward(*args, **kwargs)
        self.n_runs += 1
        self._call = None if watched else (args, kwargs)  # hooks may have dropped rows
        return copy.copy(self._output)  # some models change the tower's output in place

    def _attend(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._attended.append((args, dict(kwargs)))

    def _others(self) -> list[nn.Module]:
        """Return the parts of the tower but the attention module that is run again."""
        return [
            part for part in self.tower.modules() if part is not self.tower and part is not self.attention
        ]

    def _is_watched(self) -> bool:
        """Return whether parts of the tower are observed, which they would not be without running it.

        The hooks of transformers itself collect hidden states, which are in the output.
        """
        if any(part.config is not configuration for part, configuration in self._configurations):
            return True
        return any(
            not str(getattr(hook, "__module__", "")).startswith("transformers.")
            for part in self._others()
            for hooks in (part._forward_hooks, part._forward_pre_hooks)
            for hook in hooks.values()
        )


@contextmanager
def shared_tower(model: Any) -> Iterator[TowerMemory | None]:
    """Share the tower's output between calls with equal pictures inside the block; None if not possible.

    Methods may be applied and removed inside the block. On exit the model is restored.
    """
    adapter: Any = tokenprune.default_registry().adapter_for(model)(model)
    tower = getattr(adapter, "vision_tower", None)
    vision_attention = getattr(adapter, "vision_attention", None)
    if not isinstance(tower, nn.Module) or vision_attention is None:
        yield None
        return
    memory = TowerMemory(tower, vision_attention())
    object.__setattr__(tower, "forward", memory)  # an attribute of this object, before its class's method
    try:
        yield memory
    finally:
        object.__delattr__(tower, "forward")


def _same(ours: Any, theirs: Any) -> bool:
    """Return whether two arguments are equal, tensors bit by bit."""
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, torch.Tensor):
        kinds = [(tensor.dtype, tensor.device, tensor.shape) for tensor in (ours, theirs)]
        return ours is theirs or (kinds[0] == kinds[1] and torch.equal(ours, theirs))
    if isinstance(ours, (tuple, list)):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(_same(ours[name], theirs[name]) for name in ours)
    return bool(ours == theirs)
