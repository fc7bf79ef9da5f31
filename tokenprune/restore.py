# SPDX-License-Identifier: Apache-2.0
"""An installation that fails leaves the model as it was, whatever the adapter had done by then."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def restored_on_error(model: nn.Module) -> Iterator[None]:
    """Give every module its attributes and hooks back when the block raises; only references are copied."""
    attributes = {module: dict(module.__dict__) for module in model.modules()}
    tables = {
        module: {name: dict(held) for name, held in own.items() if isinstance(held, MutableMapping)}
        for module, own in attributes.items()
    }
    try:
        yield
    except BaseException:
        for module, own in attributes.items():
            _refill(module.__dict__, own)
            for name, held in tables[module].items():
                _refill(own[name], held)
        raise


def _refill(mapping: MutableMapping[str, Any], held: dict[str, Any]) -> None:
    """Make a mapping what it was, in place: hooks remember the one they are in."""
    for name in [name for name in mapping if name not in held]:
        del mapping[name]
    for name, value in held.items():
        if mapping.get(name) is not value:
            mapping[name] = value
