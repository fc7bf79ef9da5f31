# SPDX-License-Identifier: Apache-2.0
"""Restore a model if an installation fails, and list the modules that a successful one changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def restored_on_error(model: nn.Module) -> Iterator[Callable[[], list[nn.Module]]]:
    """Restore the attributes and hooks of every module if the block raises; copies references only.

    Yields a function that returns the modules changed so far.
    """
    attributes = {module: dict(module.__dict__) for module in model.modules()}
    tables = {
        module: {name: dict(value) for name, value in saved.items() if isinstance(value, MutableMapping)}
        for module, saved in attributes.items()
    }

    def is_changed(module: nn.Module) -> bool:
        saved = attributes[module]
        pairs = [(module.__dict__, saved), *((saved[name], table) for name, table in tables[module].items())]
        return not all(_is_same(current, before) for current, before in pairs)

    try:
        yield lambda: [module for module in attributes if is_changed(module)]
    except BaseException:
        for module, saved in attributes.items():
            _refill(module.__dict__, saved)
            for name, table in tables[module].items():
                _refill(saved[name], table)
        raise


def _is_same(current: MutableMapping[str, Any], before: dict[str, Any]) -> bool:
    """Whether two mappings have the same names and hold identical objects."""
    return len(current) == len(before) and all(
        name in current and current[name] is value for name, value in before.items()
    )


def _refill(mapping: MutableMapping[str, Any], saved: dict[str, Any]) -> None:
    """Restore a mapping in place, because hook handles refer to it."""
    for name in [name for name in mapping if name not in saved]:
        del mapping[name]
    for name, value in saved.items():
        if mapping.get(name) is not value:
            mapping[name] = value
