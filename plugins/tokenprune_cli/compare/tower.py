# SPDX-License-Identifier: Apache-2.0
"""Running the vision tower once for all methods: what it gave for the last pictures is given again.

The very same tensors come out, so answers cannot differ. Signals that methods read off inside the tower are
had by running the one attention module that adapters look at again, on the very inputs it had. Where anything
else listens inside the tower, it is run anew.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

import tokenprune


class TowerMemory:
    """Stands for a tower's forward and remembers its last call; `n_runs` counts how often it really ran."""

    def __init__(self, tower: Any, attention: Any) -> None:
        self.tower, self.attention, self.n_runs = tower, attention, 0
        self._forward = self.__wrapped__ = tower.forward  # whoever looks at its signature sees the tower's
        self._call: tuple[Any, Any] | None = None
        self._attended: list[tuple[Any, Any]] = []
        self._output: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the tower, or give what it gave."""
        if self._call is not None and _same(self._call, (args, kwargs)) and not self._is_watched():
            if self.attention is not None:
                for seen, options in self._attended:
                    self.attention(*seen, **options)
            return copy.copy(self._output)
        self._call = None
        self._attended.clear()
        watches = [] if self.attention is None else [self.attention]
        hooks = [part.register_forward_pre_hook(self._attend, with_kwargs=True) for part in watches]
        try:
            self._output = self._forward(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()
        self.n_runs += 1
        self._call = args, kwargs
        return copy.copy(self._output)  # some models write into what the tower gives them

    def _attend(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._attended.append((args, dict(kwargs)))

    def _is_watched(self) -> bool:
        """Whether there are hooks on parts of the tower that giving its output again would leave out.

        Those of transformers itself collect hidden states, which are in the output.
        """
        return any(
            not str(getattr(hook, "__module__", "")).startswith("transformers.")
            for part in self.tower.modules()
            if part is not self.tower and part is not self.attention
            for hooks in (part._forward_hooks, part._forward_pre_hooks)
            for hook in hooks.values()
        )


@contextmanager
def shared_tower(model: Any) -> Iterator[TowerMemory | None]:
    """Let calls inside the block share the tower's work on equal pictures; None where it cannot be shared.

    Methods may be applied and removed inside the block. Afterwards the model is what it was.
    """
    adapter: Any = tokenprune.default_registry().adapter_for(model)(model)
    tower = getattr(adapter, "vision_tower", None)
    look = getattr(adapter, "vision_attention", None)
    if not isinstance(tower, nn.Module) or look is None:
        yield None
        return
    memory = TowerMemory(tower, look())
    object.__setattr__(tower, "forward", memory)  # an attribute of this one object, over its class's method
    try:
        yield memory
    finally:
        object.__delattr__(tower, "forward")


def _same(ours: Any, theirs: Any) -> bool:
    """Whether two arguments are equal, tensors bit by bit."""
    if isinstance(ours, torch.Tensor) or isinstance(theirs, torch.Tensor):
        return type(ours) is type(theirs) and (
            ours is theirs
            or (
                ours.dtype == theirs.dtype
                and ours.device == theirs.device
                and ours.shape == theirs.shape
                and torch.equal(ours, theirs)
            )
        )
    if isinstance(ours, (tuple, list)) and isinstance(theirs, (tuple, list)):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_same(ours[name], theirs[name]) for name in ours)
    return bool(ours == theirs)
