# SPDX-License-Identifier: Apache-2.0
"""The block of docs/signals.md: a table of the named signals."""

from __future__ import annotations

from tokenprune_evaluation.tables import Table

import tokenprune
from tokenprune.signals import SIGNALS

from .methods import built_in, page_of
from .sources import Blocks


def table() -> str:
    """A row for each signal: its shape, its meaning, and the methods that need it."""
    needs = {name: tokenprune.method(name).needs for name in built_in()}
    rows = []
    for signal in SIGNALS.values():
        kind = "function" if signal.function else "tensor"
        methods = [_link(name) for name, needed in needs.items() if signal.name in needed]
        cells = [f"`{signal.name}`", f"`{signal.shape}`", kind, signal.meaning, ", ".join(methods)]
        rows.append(cells)
    return Table(("signal", "shape", "kind", "meaning", "methods"), rows, align="lllll").markdown()


def _link(name: str) -> str:
    page = page_of(name)
    if page is None:
        raise ValueError(f"the method {name!r} has no page in docs/methods")
    return f"[{name}](methods/{page.name})"


BLOCKS: Blocks = {"signals": table}
