# SPDX-License-Identifier: Apache-2.0
"""Hooks on single modules that code compiled earlier notices too, and that leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Hooks:
    """Hooks and attributes of ours on a model's modules; `remove` takes them away, the last one first.

    Code that torch.compile made of a module checks that it has no `forward` of its own, but not that it has
    no hooks. So a hooked module also gets its class's `forward` as its own: same code, compiled anew.
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def before(self, module: nn.Module, hook: Callable[..., Any], with_kwargs: bool = False) -> None:
        """Call `hook` before a module runs."""
        handle = module.register_forward_pre_hook(_outside_graphs(hook), with_kwargs=with_kwargs)
        self._hooked(module, handle.remove)

    def after(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        """Call `hook` after a module ran."""
        self._hooked(module, module.register_forward_hook(_outside_graphs(hook)).remove)

    def shadow(self, module: nn.Module, name: str, value: Any) -> None:
        """Set an attribute of this one object, which its class's shows through again once it is deleted."""
        object.__setattr__(module, name, value)
        self._undo.append(lambda: object.__delattr__(module, name))

    def remove(self) -> None:
        """Take everything away."""
        while self._undo:
            self._undo.pop()()

    def _hooked(self, module: nn.Module, undo: Callable[[], None]) -> None:
        self._undo.append(undo)
        if "forward" not in vars(module):
            self.shadow(module, "forward", module.forward)


def _outside_graphs(hook: Callable[..., Any]) -> Callable[..., Any]:
    """The hook as torch.compile shall run it: as it is, between the compiled pieces of a model."""
    kept: Callable[..., Any] = torch.compiler.disable(hook)  # type: ignore[no-untyped-call]
    return kept
