# SPDX-License-Identifier: Apache-2.0
"""Validate the arguments of every selector's `select` before it runs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .errors import BudgetError, InputError
from .finite import are_finite, read, refuse_not_finite
from .option_types import is_integer
from .selection import Selection
from .tokens import VisualTokens

Select = Callable[..., Selection]


def validated_select(select: Select) -> Select:
    """Wrap `select` so that its arguments are validated; anything but a plain function is returned as is."""
    if not inspect.isfunction(select) or getattr(select, "__isabstractmethod__", False):
        return select

    @functools.wraps(select)
    def validated(
        self: Any, tokens: VisualTokens, scores: Tensor | None, keep: int, **options: Any
    ) -> Selection:
        check_select_arguments(f"selector {self.name!r}", tokens, scores, keep)
        selection: Selection = select(self, tokens, scores, keep, **options)
        return selection

    validated.unvalidated = select  # type: ignore[attr-defined]
    return validated


def unvalidated_select(selector: Any) -> Select:
    """Return a selector's `select` without the validation, for callers that did it themselves."""
    function = getattr(type(selector).select, "unvalidated", None)
    bound: Select = selector.select if function is None else functools.partial(function, selector)
    return bound


def check_select_arguments(who: str, tokens: VisualTokens, scores: Any, keep: Any) -> None:
    """Raise for an invalid budget, and for scores or rows that are not finite or do not match.

    Raises
    ------
    BudgetError
        When `keep` is not an integer from 1 to N.
    InputError
        When there is not one finite score per token, or the rows are not finite.
    """
    n, shape = len(tokens), tuple(tokens.features.shape[:-1])
    if not is_integer(keep):
        raise BudgetError(f"{who}: keep must be an integer, the number of tokens to keep, got {keep!r}")
    if not 1 <= int(keep) <= n:
        raise BudgetError(
            f"{who}: keep must be between 1 and {n}, the number of tokens, got {keep} "
            "(a tokenprune.Method also accepts more, and then keeps all)"
        )
    flags = [are_finite(tokens.features)]
    if scores is not None:
        if not isinstance(scores, Tensor):
            raise InputError(f"{who} got scores of type {type(scores).__name__}; pass a tensor or None")
        if tuple(scores.shape) != shape:
            raise InputError(
                f"{who} got scores of shape {tuple(scores.shape)} for {shape} tokens; pass one score per "
                "token, or None"
            )
        flags.append(scores.detach().isfinite().all())
    finite = read(*flags)
    if not finite[0]:
        refuse_not_finite(tokens)
    if not all(finite[1:]):
        raise InputError(f"{who} got {not_finite(scores)}; pass finite scores, or None")


def not_finite(scores: Tensor) -> str:
    """Describe how many scores are not finite."""
    bad = int((~scores.detach().isfinite()).sum())
    return f"{scores.numel()} scores of which {bad} {'is' if bad == 1 else 'are'} NaN or infinite"
