# SPDX-License-Identifier: Apache-2.0
"""Removable hooks on single modules, which previously compiled code respects too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tokenprune.not_copied import NotCopied
from tokenprune.replicas import refuse_replica


class Hooks:
    """Hooks and attributes set on a model's modules; `remove` undoes them, last one first.

    Compiled code is guarded against a `forward` on the instance, but not against hooks. A hooked module
    therefore gets its class's `forward` as an instance attribute, which triggers recompilation.
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def before(self, module: nn.Module, hook: Callable[..., Any], with_kwargs: bool = False) -> None:
        """Call `hook` before a module runs."""
        handle = module.register_forward_pre_hook(_Hook(hook), with_kwargs=with_kwargs)
        self._hooked(module, handle.remove)

    def after(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        """Call `hook` after a module runs."""
        self._hooked(module, module.register_forward_hook(_Hook(hook)).remove)

    def shadow(self, module: nn.Module, name: str, value: Any) -> None:
        """Set an instance attribute, which shadows that of the class until it is deleted."""
        object.__setattr__(module, name, value)
        self._undo.append(lambda: object.__delattr__(module, name))

    def remove(self) -> None:
        """Remove all hooks and attributes."""
        while self._undo:
            self._undo.pop()()

    def _hooked(self, module: nn.Module, undo: Callable[[], None]) -> None:
        self._undo.append(undo)
        if "forward" not in vars(module):
            self.shadow(module, "forward", module.forward)


class _Hook(NotCopied):
    """A hook that torch.compile leaves in eager code, between graphs; refuses copies of the model."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        def checked(module: nn.Module, *args: Any) -> Any:
            refuse_replica(module)
            return hook(module, *args)

        self._run: Callable[..., Any] = torch.compiler.disable(checked)  # type: ignore[no-untyped-call]

    def __call__(self, module: nn.Module, *args: Any) -> Any:
        """Call the hook."""
        return self._run(module, *args)
