# SPDX-License-Identifier: Apache-2.0
"""What a strategy answered is looked at before anything is cut by it."""

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
def blamed(part: Strategy, tokens: VisualTokens) -> Iterator[None]:
    """Say whose code it was that failed, or that it was given rows nothing can be made of.

    Raises
    ------
    InputError
        When the tokens are not finite.
    PluginError
        From whatever else the strategy raised; our own errors and a full memory pass as they are.
    """
    try:
        yield
    except (TokenPruneError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        refuse_not_finite(tokens)
        raise PluginError(f"{_who(part)} failed: {type(error).__name__}: {error}") from error


def check_scores(part: Strategy, scores: Any, tokens: VisualTokens) -> None:
    """Refuse what are no scores of these tokens: (N,) or (B, N) finite numbers, or None.

    Scores are looked at together with the rows they are of, so that the device is waited for once.

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
    rows_fit, scores_fit = read(are_finite(tokens.features), scores.detach().isfinite().all())
    if not rows_fit:
        refuse_not_finite(tokens)
    if not scores_fit:
        raise PluginError(
            f"{_who(part)} returned {not_finite(scores)} for tokens that are all finite; a scorer returns "
            f"finite numbers, or None{_unusable(part, tokens)}"
        )


def check_selection(
    part: Strategy, selection: Any, keep: int, tokens: VisualTokens, rows_fit: bool = True
) -> None:
    """Refuse what is no choice of `keep` rows of the tokens; kept slots ascend, -1 stands for a new row.

    Parameters
    ----------
    rows_fit
        Whether the tokens' rows are known to be finite; else they are looked at here.

    Raises
    ------
    InputError
        When the tokens' rows are not finite.
    PluginError
        Naming the strategy, what it returned and what was expected.
    """
    if not isinstance(selection, Selection):
        raise PluginError(f"{_who(part)} returned {type(selection).__name__} instead of a Selection")
    if len(selection) != keep:
        raise PluginError(f"{part.kind} {part.name!r} returned {len(selection)} rows instead of {keep}")
    n, slots, is_pure = len(tokens), selection.indices, selection.features is None
    wrong = (slots >= n).any() | (slots < (0 if is_pure else -1)).any()
    if is_pure:
        wrong = wrong | (slots.diff(dim=-1) < 1).any()
    flags = [wrong]
    if selection.features is not None:
        flags.append(~are_finite(selection.features))
    if not rows_fit:
        flags.append(~are_finite(tokens.features))
    found = read(*flags)
    if not any(found):
        return
    if not rows_fit:
        refuse_not_finite(tokens)
    if found[0]:
        raise PluginError(
            f"{_who(part)} returned slots that are not among 0 to {n - 1}, ascending, each once: "
            f"{slots.flatten()[:8].tolist()}{' ...' if slots.numel() > 8 else ''}"
        )
    if selection.features is not None and not bool(selection.features.isfinite().all()):
        raise PluginError(f"{_who(part)} returned rows that hold NaN or infinity")


def _unusable(part: Strategy, tokens: VisualTokens) -> str:
    """Which of the signals a strategy reads are not finite, as the end of a sentence."""
    read_signals = {name: tokens.signal(name) for name in sorted(part.needs & tokens.provides)}
    bad = [
        name
        for name, value in read_signals.items()
        if isinstance(value, Tensor) and not bool(value.isfinite().all())
    ]
    return f". It reads {', '.join(bad)}, which holds NaN or infinity" if bad else ""


def _who(part: Strategy) -> str:
    return f"{part.kind} {part.name!r} ({type(part).__module__})"
