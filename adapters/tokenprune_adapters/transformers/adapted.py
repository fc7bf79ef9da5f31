# SPDX-License-Identifier: Apache-2.0
"""Modules that PEFT puts in place of a model's own."""

from __future__ import annotations

from typing import Any

from torch import nn


def running(module: Any) -> Any:
    """Return the copy of a module that PEFT trains as a whole (`modules_to_save`); other modules themselves.

    It is the active adapter's copy, or the original while adapters are disabled.
    """
    copies = getattr(module, "modules_to_save", None)
    if not isinstance(copies, nn.ModuleDict) or not hasattr(module, "original_module"):
        return module
    active = [] if module.disable_adapters else [name for name in module.active_adapters if name in copies]
    return copies[active[0]] if active else module.original_module
