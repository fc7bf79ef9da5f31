# SPDX-License-Identifier: Apache-2.0
"""An installation that fails leaves the model as it was, whatever the adapter had done by then.

One that succeeds says which modules it changed: they may also be part of other models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def restored_on_error(model: nn.Module) -> Iterator[Callable[[], list[nn.Module]]]:
    """Give every module its attributes and hooks back when the block raises; only references are copied.

    The block gets a function that returns the modules that have changed by then.
    """
    attributes = {module: dict(module.__dict__) for module in model.modules()}
    tables = {
        module: {name: dict(held) for name, held in own.items() if isinstance(held, MutableMapping)}
        for module, own in attributes.items()
    }

    def is_changed(module: nn.Module) -> bool:
        own = attributes[module]
        held = [(module.__dict__, own), *((own[name], table) for name, table in tables[module].items())]
        return not all(_is_same(now, before) for now, before in held)

    try:
        yield lambda: [module for module in attributes if is_changed(module)]
    except BaseException:
        for module, own in attributes.items():
            _refill(module.__dict__, own)
            for name, held in tables[module].items():
                _refill(own[name], held)
        raise


def _is_same(now: MutableMapping[str, Any], before: dict[str, Any]) -> bool:
    """Whether two mappings hold the same objects by the same names."""
    return len(now) == len(before) and all(
        name in now and now[name] is value for name, value in before.items()
    )


def _refill(mapping: MutableMapping[str, Any], held: dict[str, Any]) -> None:
    """Make a mapping what it was, in place: hooks remember the one they are in."""
    for name in [name for name in mapping if name not in held]:
        del mapping[name]
    for name, value in held.items():
        if mapping.get(name) is not value:
            mapping[name] = value
