# SPDX-License-Identifier: Apache-2.0
"""Requests with items whose rows come from another engine: they contain sizes and identifiers, no pixels.

Placeholders are counted with the budget that the other engine pruned the items with, which their identifiers
contain.
"""

from __future__ import annotations

from typing import Any

from tokenprune import BudgetError

from . import identifiers, stock
from .info import PruningInfo
from .settings import KEY


def with_budget(info: PruningInfo, request: Any) -> Any:
    """Return a request whose own budget is that of its items.

    Raises
    ------
    IncompatibleError
        If there are neither pixels nor rows of an item, and its identifier is not from an engine with the
        same configuration, or positions cannot be computed without its pixels.
    BudgetError
        If the request's own budget is invalid, or its items have different budgets.
    """
    view = stock.view("request", request)
    own = info.own_budget(view.arguments)  # fail before any other work
    kinds = {modality: stock.kind_of(view.items, modality) for modality in info.modalities}
    encoded = [modality for modality, kind in kinds.items() if kind == "fields"]
    if not encoded:
        return request
    budgets = set()
    for modality in encoded:
        info.check_fields(modality, stock.fields_of(view.items, modality))
        for name in stock.identifiers_of(view, modality):
            budgets.add(identifiers.budget_of(name, info.settings.digest) or info.settings.budget)
    if own is not None or "pixels" in kinds.values():
        budgets.add(own or info.settings.budget)
    if len(budgets) > 1:
        raise BudgetError(
            "all items of a request have the same budget; these have "
            + " and ".join(sorted(map(str, budgets)))
            + ": send them in separate requests, or encode them with the same budget"
        )
    (budget,) = budgets
    if own is not None or budget == info.settings.budget:
        return request
    given = {"keep": budget.keep, "keep_ratio": budget.keep_ratio}
    entry = {name: value for name, value in given.items() if value is not None}
    return stock.with_arguments(request, {**view.arguments, KEY: entry})
