# SPDX-License-Identifier: Apache-2.0
"""Validate strategy outputs before use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .errors import PluginError, TokenPruneError
from .finite import are_finite, read, refuse_not_finite
from .select_input import not_finite
from .selection import Selection
from .strategy import Strategy
from .tokens import VisualTokens


@contextmanager
def errors_attributed(part: Strategy, tokens: VisualTokens) -> Iterator[None]:
    """Re-raise unexpected errors of a strategy with its name.

    Raises
    ------
    InputError
        When the tokens are not finite.
    PluginError
        For any other error; those of tokenprune and `OutOfMemoryError` pass unchanged.
    """
    try:
        yield
    except (TokenPruneError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        refuse_not_finite(tokens)
        raise PluginError(f"{_who(part)} failed: {type(error).__name__}: {error}") from error


def check_scores(part: Strategy, scores: Any, tokens: VisualTokens) -> None:
    """Raise unless `scores` are finite numbers, (N,) or (B, N), or None.

    Scores and rows are checked together, with a single device synchronization.

    Raises
    ------
    InputError
        When the tokens' rows are not finite.
    PluginError
        Naming the strategy, what it returned and what was expected.
    """
    shape = tuple(tokens.features.shape[:-1])
    if scores is None:
        return
    if not isinstance(scores, Tensor):
        raise PluginError(f"{_who(part)} returned {type(scores).__name__} instead of a tensor of scores")
    if tuple(scores.shape) != shape:
        raise PluginError(f"{_who(part)} returned scores of shape {tuple(scores.shape)} for {shape} tokens")
    rows_finite, scores_finite = read(are_finite(tokens.features), scores.detach().isfinite().all())
    if not rows_finite:
        refuse_not_finite(tokens)
    if not scores_finite:
        raise PluginError(
            f"{_who(part)} returned {not_finite(scores)} for tokens that are all finite; a scorer returns "
            f"finite numbers, or None{_signals_not_finite(part, tokens)}"
        )


def check_selection(
    part: Strategy,
    selection: Any,
    keep: int,
    tokens: VisualTokens,
    rows_finite: bool = True,
    adaptive: bool = False,
) -> None:
    """Raise unless `selection` has `keep` rows of the tokens; kept slots ascend, -1 marks a new row.

    Parameters
    ----------
    rows_finite
        Whether the tokens' rows are known to be finite; otherwise they are checked here.
    adaptive
        Whether fewer rows than `keep`, at least one, are valid too.

    Raises
    ------
    InputError
        When the tokens' rows are not finite.
    PluginError
        Naming the strategy, what it returned and what was expected.
    """
    if not isinstance(selection, Selection):
        raise PluginError(f"{_who(part)} returned {type(selection).__name__} instead of a Selection")
    if not (1 if adaptive else keep) <= len(selection) <= keep:
        expected = f"1 to {keep}" if adaptive else str(keep)
        raise PluginError(f"{part.kind} {part.name!r} returned {len(selection)} rows instead of {expected}")
    n, slots, is_pure = len(tokens), selection.indices, selection.features is None
    invalid = (slots >= n).any() | (slots < (0 if is_pure else -1)).any()
    if is_pure:
        invalid = invalid | (slots.diff(dim=-1) < 1).any()
    flags = [invalid]
    if selection.features is not None:
        flags.append(~are_finite(selection.features))
    if not rows_finite:
        flags.append(~are_finite(tokens.features))
    merged_into = selection.merged_into
    if merged_into is not None:
        if tuple(merged_into.shape) != tuple(tokens.features.shape[:-1]) or merged_into.dtype != torch.long:
            raise PluginError(
                f"{_who(part)} returned merged_into of shape {tuple(merged_into.shape)} and dtype "
                f"{merged_into.dtype} for {tuple(tokens.features.shape[:-1])} tokens; it must be a "
                "torch.long slot for each token"
            )
        flags.append(_merges_wrongly(slots, merged_into))
    failures = read(*flags)
    if not any(failures):
        return
    if not rows_finite:
        refuse_not_finite(tokens)
    if failures[0]:
        raise PluginError(
            f"{_who(part)} returned slots that are not unique, ascending and between 0 and {n - 1}: "
            f"{slots.flatten()[:8].tolist()}{' ...' if slots.numel() > 8 else ''}"
        )
    if selection.features is not None and not bool(selection.features.isfinite().all()):
        raise PluginError(f"{_who(part)} returned rows that hold NaN or infinity")
    if merged_into is not None and failures[-1]:
        raise PluginError(
            f"{_who(part)} returned a merged_into that is wrong: kept tokens must have their own slot, and "
            "others that of a kept token, or -1"
        )


def _merges_wrongly(slots: Tensor, merged_into: Tensor) -> Tensor:
    """Whether a kept token is merged into another one, or a token into one that is not kept; a scalar."""
    n = merged_into.shape[-1]
    is_kept = torch.zeros((*slots.shape[:-1], n + 1), dtype=torch.bool, device=slots.device)
    is_kept.scatter_(-1, torch.where(slots < 0, n, slots.clamp(max=n)), True)
    goal = torch.where((merged_into < 0) | (merged_into >= n), n, merged_into)
    moves = is_kept[..., :n] & (merged_into != torch.arange(n, device=slots.device))
    is_kept[..., n] = False
    return (moves | ~is_kept.gather(-1, goal) & (merged_into != -1)).any()


def _signals_not_finite(part: Strategy, tokens: VisualTokens) -> str:
    """Name the signals of a strategy that are not finite, as a sentence to append."""
    read_signals = {name: tokens.signal(name) for name in sorted(part.needs & tokens.provides)}
    bad = [
        name
        for name, value in read_signals.items()
        if isinstance(value, Tensor) and not bool(value.isfinite().all())
    ]
    return f". It reads {', '.join(bad)}, which holds NaN or infinity" if bad else ""


def _who(part: Strategy) -> str:
    return f"{part.kind} {part.name!r} ({type(part).__module__})"
