# SPDX-License-Identifier: Apache-2.0
"""What a strategy answered is looked at before anything is cut by it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .errors import PluginError, TokenPruneError
from .selection import Selection
from .strategy import Strategy
from .tokens import VisualTokens


@contextmanager
def blamed(part: Strategy) -> Iterator[None]:
    """Say whose code it was that failed.

    Raises
    ------
    PluginError
        From whatever the strategy raised; our own errors and a full memory pass as they are.
    """
    try:
        yield
    except (TokenPruneError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise PluginError(f"{_who(part)} failed: {type(error).__name__}: {error}") from error


def check_scores(part: Strategy, scores: Any, tokens: VisualTokens) -> None:
    """Refuse what are no scores of these tokens: (N,) or (B, N) numbers, or None.

    Raises
    ------
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
    if bool(scores.isnan().any()):
        raise PluginError(f"{_who(part)} returned scores that are no numbers (NaN); its input may hold some")


def check_selection(part: Strategy, selection: Any, keep: int, n: int) -> None:
    """Refuse what is no choice of `keep` rows of `n` tokens; kept slots ascend, -1 stands for a new row.

    Raises
    ------
    PluginError
        Naming the strategy, what it returned and what was expected.
    """
    if not isinstance(selection, Selection):
        raise PluginError(f"{_who(part)} returned {type(selection).__name__} instead of a Selection")
    if len(selection) != keep:
        raise PluginError(f"{part.kind} {part.name!r} returned {len(selection)} rows instead of {keep}")
    slots, is_pure = selection.indices, selection.features is None
    wrong = (slots >= n).any() | (slots < (0 if is_pure else -1)).any()
    if is_pure:
        wrong = wrong | (slots.diff(dim=-1) < 1).any()
    if bool(wrong):
        raise PluginError(
            f"{_who(part)} returned slots that are not among 0 to {n - 1}, ascending, each once: "
            f"{slots.flatten()[:8].tolist()}{' ...' if slots.numel() > 8 else ''}"
        )


def _who(part: Strategy) -> str:
    return f"{part.kind} {part.name!r} ({type(part).__module__})"
