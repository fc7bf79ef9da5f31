# SPDX-License-Identifier: Apache-2.0
"""Budgets as they are typed, checked by the same rules and with the same words as in Python."""

from __future__ import annotations

from typing import Any

import tokenprune


def budget(keep: str | None, keep_ratio: str | None) -> tokenprune.Budget:
    """Turn `--keep` and `--keep-ratio` into a budget."""
    return tokenprune.Budget(_number(keep), _number(keep_ratio))


def _number(text: str | None) -> Any:
    """What was typed as the number it stands for; what stands for none stays as it is, to be refused."""
    if text is None:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
