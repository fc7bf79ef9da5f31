# SPDX-License-Identifier: Apache-2.0
"""Detect what a removed pruning left on a model: hooks, attributes, a changed class or configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


class ModelState:
    """A snapshot of a model's modules, without the values of their tensors."""

    def __init__(self, model: nn.Module) -> None:
        self._before = _snapshot(model)

    def changed_on(self, model: nn.Module) -> str:
        """Describe the first difference from the snapshot; an empty string if there is none."""
        after = _snapshot(model)
        for name in [*self._before, *(name for name in after if name not in self._before)]:
            old, new = self._before.get(name), after.get(name)
            if old != new:
                where = f"module {name!r}" if name else f"the {type(model).__name__} itself"
                return f"{where} {_change(old, new)}"
        return ""


def _snapshot(model: nn.Module) -> dict[str, dict[str, Any]]:
    return {name: _module_state(module) for name, module in model.named_modules()}


def _module_state(module: nn.Module) -> dict[str, Any]:
    attributes = vars(module)
    tables = {name: value for name, value in attributes.items() if name.endswith("_hooks")}
    hooks = {name: tuple(value) for name, value in tables.items() if isinstance(value, Mapping) and value}
    config = attributes.get("config")
    settings = vars(config).items() if hasattr(config, "__dict__") else ()
    return {
        "class": type(module),
        "attributes": frozenset(attributes),
        "hooks": hooks,
        "config": (id(config), tuple(sorted((key, id(value)) for key, value in settings))),
    }


def _change(old: dict[str, Any] | None, new: dict[str, Any] | None) -> str:
    if old is None or new is None:
        return "is new" if old is None else "is gone"
    if old["class"] is not new["class"]:
        return f"has the class {new['class'].__name__} instead of {old['class'].__name__}"
    if old["hooks"] != new["hooks"]:
        names = {name for name, _ in set(old["hooks"].items()) ^ set(new["hooks"].items())}
        return f"has other hooks than before ({', '.join(sorted(names))})"
    if old["attributes"] != new["attributes"]:
        names = old["attributes"] ^ new["attributes"]
        return f"has other attributes than before ({', '.join(sorted(names))})"
    return "has another configuration than before"
