# SPDX-License-Identifier: Apache-2.0
"""Budgets on the command line, checked by the same rules and with the same messages as in Python."""

from __future__ import annotations

from typing import Any

import tokenprune


def budget(keep: str | None, keep_ratio: str | None) -> tokenprune.Budget:
    """Return the budget of `--keep` and `--keep-ratio`."""
    return tokenprune.Budget(_number(keep), _number(keep_ratio))


def _number(text: str | None) -> Any:
    """Return the number in a text; a text without a number is returned as it is, and Budget refuses it."""
    if text is None:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
