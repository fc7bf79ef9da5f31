# SPDX-License-Identifier: Apache-2.0
"""What a pruning could leave behind on a model: hooks, attributes, another class or configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


class ModelState:
    """How a model's modules looked at one time, but for the values of their tensors."""

    def __init__(self, model: nn.Module) -> None:
        self._before = _looks(model)

    def changed_on(self, model: nn.Module) -> str:
        """What is not as it was, in words; empty where everything is."""
        now = _looks(model)
        for name in [*self._before, *(name for name in now if name not in self._before)]:
            was, is_ = self._before.get(name), now.get(name)
            if was != is_:
                where = f"module {name!r}" if name else f"the {type(model).__name__} itself"
                return f"{where} {_change(was, is_)}"
        return ""


def _looks(model: nn.Module) -> dict[str, dict[str, Any]]:
    return {name: _look(module) for name, module in model.named_modules()}


def _look(module: nn.Module) -> dict[str, Any]:
    own = vars(module)
    hooks = {name: tuple(held) for name, held in own.items() if name.endswith("_hooks") and _counts(held)}
    config = own.get("config")
    settings = vars(config).items() if hasattr(config, "__dict__") else ()
    return {
        "class": type(module),
        "attributes": frozenset(own),
        "hooks": hooks,
        "config": (id(config), tuple(sorted((key, id(value)) for key, value in settings))),
    }


def _counts(held: Any) -> bool:
    return isinstance(held, Mapping) and bool(held)


def _change(was: dict[str, Any] | None, now: dict[str, Any] | None) -> str:
    if was is None or now is None:
        return "is new" if was is None else "is gone"
    if was["class"] is not now["class"]:
        return f"has the class {now['class'].__name__} instead of {was['class'].__name__}"
    if was["hooks"] != now["hooks"]:
        names = sorted(set(was["hooks"].items()) ^ set(now["hooks"].items()))
        return f"has other hooks than before ({', '.join(sorted({name for name, _ in names}))})"
    if was["attributes"] != now["attributes"]:
        return (
            f"has other attributes than before ({', '.join(sorted(was['attributes'] ^ now['attributes']))})"
        )
    return "has another configuration than before"
