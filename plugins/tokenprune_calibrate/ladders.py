# SPDX-License-Identifier: Apache-2.0
"""The settings to test, decided before data are seen: each method's budgets, from careful to cheap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenprune_evaluation.errors import BadInputError
from tokenprune_evaluation.named_methods import plain_text
from tokenprune_evaluation.settings import BASELINES, Setting, refusal

from tokenprune import Cover

METHODS = ("zoo-exact", "divprune", "visionzip")  # by default, where the model has their signals
SHARES = (3 / 4, 1 / 2, 1 / 3, 1 / 4, 1 / 6, 1 / 8, 1 / 16)  # default budgets, of the visual tokens


@dataclass(frozen=True)
class Ladder:
    """A method with its settings, from careful to cheap; they are tested in this order until one fails.

    The budgets are counts, the largest first, or rules, the smallest radius first.
    """

    method: str
    rungs: tuple[Setting, ...]


def make_ladders(
    model: Any, methods: Sequence[str], keeps: Sequence[int | Cover], mean_tokens: float
) -> tuple[Ladder, ...]:
    """Return a ladder of each method, or two with counts and rules.

    Parameters
    ----------
    methods
        Names of methods, with options; those of `METHODS` that the model supports if empty.
    keeps
        Budgets; shares of `mean_tokens`, the mean number of visual tokens of a picture, if empty.

    Raises
    ------
    BadInputError
        If the model does not support a setting that was named, or rules differ in more than the radius.
    """
    series = _series(keeps) or [_default_keeps(mean_tokens)]
    ladders = []
    for name in dict.fromkeys(methods or METHODS):
        if name in BASELINES:
            raise BadInputError(f"{name} is no method of tokenprune.apply; name a method")
        full_name = plain_text(name)
        for budgets in series:
            rungs = tuple(_setting(full_name, keep) for keep in budgets)
            reason = next(filter(None, (refusal(model, rung) for rung in rungs)), None)
            if reason is None:
                ladders.append(Ladder(full_name, rungs))
            elif methods:
                raise BadInputError(f"{reason}; leave the method or the budget out")
    if not ladders:
        raise BadInputError(f"the model supports none of {', '.join(METHODS)}; name methods that it supports")
    return tuple(ladders)


def _series(keeps: Sequence[int | Cover]) -> list[list[int | Cover]]:
    """Return the counts from many to few, and the rules from the smallest radius to the largest."""
    counts = sorted({keep for keep in keeps if not isinstance(keep, Cover)}, reverse=True)
    rules = sorted({keep for keep in keeps if isinstance(keep, Cover)}, key=lambda rule: rule.radius)
    if len({(rule.at_least, rule.at_most) for rule in rules}) > 1:
        raise BadInputError(
            f"{', '.join(map(str, rules))} differ in at_least or at_most, so that none is the most careful; "
            "give rules that differ in the radius alone"
        )
    return [list(budgets) for budgets in (counts, rules) if budgets]


def _setting(method: str, keep: int | Cover) -> Setting:
    return Setting(method, rule=keep) if isinstance(keep, Cover) else Setting(method, keep)


def _default_keeps(mean_tokens: float) -> list[int | Cover]:
    keeps = {max(1, round(mean_tokens * share)) for share in SHARES}
    return list(sorted(keeps, reverse=True))
