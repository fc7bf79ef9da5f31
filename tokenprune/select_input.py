# SPDX-License-Identifier: Apache-2.0
"""What a selector is handed is looked at before it chooses, whoever wrote it and whoever calls it."""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .errors import BudgetError, InputError
from .finite import are_finite, read, refuse_not_finite
from .selection import Selection
from .tokens import VisualTokens

Select = Callable[..., Selection]


def looking_first(select: Select) -> Select:
    """Return a `select` that first looks at what it is handed; what is no plain function stays as it is."""
    if not inspect.isfunction(select) or getattr(select, "__isabstractmethod__", False):
        return select

    @functools.wraps(select)
    def looked_at(
        self: Any, tokens: VisualTokens, scores: Tensor | None, keep: int, **more: Any
    ) -> Selection:
        check_handed(f"selector {self.name!r}", tokens, scores, keep)
        chosen: Selection = select(self, tokens, scores, keep, **more)
        return chosen

    looked_at.directly = select  # type: ignore[attr-defined]
    return looked_at


def directly(selector: Any) -> Select:
    """Return a selector's own `select`, for a caller that has looked at tokens, scores and budget already."""
    own = getattr(type(selector).select, "directly", None)
    bound: Select = selector.select if own is None else functools.partial(own, selector)
    return bound


def check_handed(who: str, tokens: VisualTokens, scores: Any, keep: Any) -> None:
    """Refuse a budget, scores or rows that nothing can be chosen by.

    Raises
    ------
    BudgetError
        When `keep` is no whole number from 1 to N.
    InputError
        When the scores are not one finite number a token, or the rows are not finite.
    """
    n, shape = len(tokens), tuple(tokens.features.shape[:-1])
    if isinstance(keep, bool) or not isinstance(keep, numbers.Integral):
        raise BudgetError(f"{who} was asked to keep {keep!r}; keep is a whole number of tokens")
    if not 1 <= int(keep) <= n:
        raise BudgetError(
            f"{who} was asked to keep {keep} of {n} tokens; a selector keeps 1 to {n} of them "
            "(a tokenprune.Method also takes more, and keeps all)"
        )
    flags = [are_finite(tokens.features)]
    if scores is not None:
        if not isinstance(scores, Tensor):
            raise InputError(
                f"{who} was handed scores of type {type(scores).__name__}; pass a tensor or None"
            )
        if tuple(scores.shape) != shape:
            raise InputError(
                f"{who} was handed scores of shape {tuple(scores.shape)} for {shape} tokens; pass one score "
                "a token, or None"
            )
        flags.append(scores.detach().isfinite().all())
    finite = read(*flags)
    if not finite[0]:
        refuse_not_finite(tokens)
    if not all(finite[1:]):
        raise InputError(f"{who} was handed {not_finite(scores)}; pass finite scores, or None")


def not_finite(scores: Tensor) -> str:
    """How many scores are not finite, in words."""
    bad = int((~scores.detach().isfinite()).sum())
    return f"{scores.numel()} scores of which {bad} {'is' if bad == 1 else 'are'} NaN or infinite"
