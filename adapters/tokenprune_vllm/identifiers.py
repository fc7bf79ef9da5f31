# SPDX-License-Identifier: Apache-2.0
"""Identifiers of items: the keys of everything that vLLM caches of them, and transfers between engines.

An item is an image or a video. Its identifier ends in the digest of the configuration and, if a request set
one, its budget. An engine that gets an item's rows from another engine, and no pixels, reads from the
identifier how many rows these are.
"""

from __future__ import annotations

import re

from tokenprune import Budget, BudgetError, IncompatibleError

_OWN_BUDGET = re.compile(r"-(keep|keep_ratio)-([\w.-]+)")


def pruned(key: str, digest: str, own_budget: Budget | None) -> str:
    """Return the identifier of an item that is pruned, given vLLM's key for it.

    Parameters
    ----------
    own_budget
        The budget that a request set; None for the engine's.
    """
    ending = _ending(digest) + _spelled(own_budget)
    return key if key.endswith(ending) else key + ending  # clients may name an item by its identifier


def whole(key: str, digest: str) -> str:
    """Return the identifier of an item whose precomputed rows a request contains. They are not pruned."""
    return f"{key}{_ending(digest)}-whole"


def budget_of(identifier: str | None, digest: str) -> Budget | None:
    """Return the budget that another engine pruned an item with. None if it was that of the engine.

    Raises
    ------
    IncompatibleError
        If the identifier is not from an engine with this configuration.
    """
    _, ending, spelled = (identifier or "").rpartition(_ending(digest))
    match = _OWN_BUDGET.fullmatch(spelled)
    if ending and not spelled:
        return None
    if match is not None:
        try:
            keep, ratio = (int(match[2]), None) if match[1] == "keep" else (None, float(match[2]))
            return Budget(keep, ratio)
        except (ValueError, BudgetError):
            pass
    raise IncompatibleError(
        f"this request has neither pixels nor rows for the item {identifier!r}; name it by the identifier "
        'that an engine with the same "tokenprune" configuration returned for it (multi_modal_uuids, or '
        '"uuid" in a chat), or send the item itself'
    )


def _ending(digest: str) -> str:
    return f"-tokenprune-{digest}"


def _spelled(budget: Budget | None) -> str:
    if budget is None:
        return ""
    return f"-keep-{budget.keep}" if budget.keep is not None else f"-keep_ratio-{budget.keep_ratio!r}"
