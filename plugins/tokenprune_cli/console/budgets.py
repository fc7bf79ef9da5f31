# SPDX-License-Identifier: Apache-2.0
"""Budgets on the command line, checked by the same rules and with the same messages as in Python."""

from __future__ import annotations

from typing import Any

from tokenprune_evaluation.errors import BadInputError

import tokenprune

RULE = "cover:"


def budget(keep: str | None, keep_ratio: str | None) -> tokenprune.Budget:
    """Return the budget of `--keep` and `--keep-ratio`."""
    return tokenprune.Budget(_number(keep), _number(keep_ratio))


def budget_or_rule(keep: str | None, keep_ratio: str | None) -> tokenprune.Budget:
    """Return the budget of `--keep` and `--keep-ratio`, where the first may be `cover:0.2:16:256`.

    The numbers are the radius, and optionally the fewest and the most tokens.
    """
    if keep is None or not keep.startswith(RULE):
        return budget(keep, keep_ratio)
    if keep_ratio is not None:
        raise BadInputError("give either --keep or --keep-ratio, not both")
    radius, *counts = (_number(part) for part in keep.removeprefix(RULE).split(":"))
    if len(counts) > 2:
        raise BadInputError(f"--keep {keep!r} has too many numbers; write {RULE}RADIUS[:AT_LEAST[:AT_MOST]]")
    at_least = counts[0] if counts else 1
    at_most = counts[1] if len(counts) == 2 else None
    return tokenprune.cover(radius, at_most=at_most, at_least=at_least)


def rule_or_count(keep: str) -> int | tokenprune.Cover:
    """Return the count or the rule of `--keep`."""
    kept = budget_or_rule(keep, None)
    return kept.rule if kept.rule is not None else kept.keep or 0


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
