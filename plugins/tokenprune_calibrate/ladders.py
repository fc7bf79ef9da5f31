# SPDX-License-Identifier: Apache-2.0
"""The settings to test, decided before data are seen: each method's budgets, from careful to cheap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenprune_evaluation.errors import BadInputError
from tokenprune_evaluation.settings import BASELINES, Setting, refusal

import tokenprune

METHODS = ("zoo-exact", "divprune", "visionzip")  # by default, where the model has their signals
SHARES = (3 / 4, 1 / 2, 1 / 3, 1 / 4, 1 / 6, 1 / 8, 1 / 16)  # default budgets, of the visual tokens


@dataclass(frozen=True)
class Ladder:
    """A method with its settings, the most tokens first; they are tested in this order until one fails."""

    method: str
    rungs: tuple[Setting, ...]


def make_ladders(
    model: Any, methods: Sequence[str], keeps: Sequence[int], mean_tokens: float
) -> tuple[Ladder, ...]:
    """Return a ladder of each method.

    Parameters
    ----------
    methods
        Names of methods; those of `METHODS` that the model supports if empty.
    keeps
        Budgets; shares of `mean_tokens`, the mean number of visual tokens of a picture, if empty.

    Raises
    ------
    BadInputError
        If the model does not support a setting that was named.
    """
    budgets = sorted(set(keeps), reverse=True) or _default_keeps(mean_tokens)
    ladders = []
    for name in dict.fromkeys(methods or METHODS):
        if name in BASELINES:
            raise BadInputError(f"{name} is no method of tokenprune.apply; name a method")
        rungs = [Setting(tokenprune.method(name).name, keep) for keep in budgets]
        reason = next(filter(None, (refusal(model, rung) for rung in rungs)), None)
        if reason is None:
            ladders.append(Ladder(rungs[0].method or name, tuple(rungs)))
        elif methods:
            raise BadInputError(f"{reason}; leave the method or the budget out")
    if not ladders:
        raise BadInputError(f"the model supports none of {', '.join(METHODS)}; name methods that it supports")
    return tuple(ladders)


def _default_keeps(mean_tokens: float) -> list[int]:
    keeps = {max(1, round(mean_tokens * share)) for share in SHARES}
    return sorted(keeps, reverse=True)
