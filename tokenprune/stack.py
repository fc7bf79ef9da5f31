# SPDX-License-Identifier: Apache-2.0
"""Stacks of equal images, for strategies that choose for all of them at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .selection import Selection
from .signals import SIGNALS
from .strategy import Strategy
from .tokens import VisualTokens

STACK_TOKENS = 16384  # tokens of all images of a stack; what is computed of them is held at once


def stack(images: Sequence[VisualTokens]) -> VisualTokens:
    """Make one (B, N, D) of images with as many tokens each; signals are stacked when asked for."""
    first = images[0]
    signals: dict[str, Any] = {}
    for name in first.provides:
        known = SIGNALS.get(name)
        if known is not None and known.of_the_model:
            signals[name] = first.signal(name)
        elif known is not None and known.function:
            signals[name] = functools.partial(_call_each, images, name)
        else:
            signals[name] = functools.partial(_signal_of_each, images, name)
    features = torch.stack([image.features for image in images])
    return VisualTokens(features, signals, first.layout, first.layer)


def _signal_of_each(images: Sequence[VisualTokens], name: str) -> Tensor:
    return torch.stack([image.signal(name) for image in images])


def _call_each(images: Sequence[VisualTokens], name: str, *arguments: Any) -> Tensor:
    return torch.stack([image.signal(name)(*arguments) for image in images])


def image_of(tokens: VisualTokens, number: int) -> VisualTokens:
    """One image of a stack."""
    signals: dict[str, Any] = {}
    for name in tokens.provides:
        known = SIGNALS.get(name)
        whole = known is not None and known.of_the_model
        signals[name] = tokens.signal(name) if whole else functools.partial(_row, tokens, name, number)
    return VisualTokens(tokens.features[number], signals, tokens.layout, tokens.layer)


def _row(tokens: VisualTokens, name: str, number: int) -> Any:
    return tokens.signal(name)[number]


def selections_of(together: Selection) -> list[Selection]:
    """The selection of each image of a stack."""
    parts = (together.indices, together.order, together.features, together.scores)
    each = [[None] * len(together.indices) if part is None else list(part) for part in parts]
    return [Selection(*own) for own in zip(*each, strict=True)]


def in_groups(
    images: Sequence[VisualTokens], key: Callable[[int], Any], choose: Callable[[list[int]], list[Selection]]
) -> list[Selection]:
    """Let `choose` answer for numbers of images with the same key, not too many at once; in their order."""
    groups: dict[Any, list[int]] = {}
    for number in range(len(images)):
        groups.setdefault(key(number), []).append(number)
    found: dict[int, Selection] = {}
    for numbers in groups.values():
        most = max(1, STACK_TOKENS // len(images[numbers[0]]))
        for start in range(0, len(numbers), most):
            some = numbers[start : start + most]
            found.update(zip(some, choose(some), strict=True))
    return [found[number] for number in range(len(images))]


def choose_parts(
    choose: Callable[[VisualTokens, Tensor | None, int], Selection],
    strategies: Sequence[Strategy],
    images: Sequence[VisualTokens],
    scores: Sequence[Tensor | None],
    keeps: Sequence[int],
) -> list[Selection]:
    """Choose within each of some images (the tiles of one), those of one size together where it can.

    `choose` takes an image or a stack, its scores and a budget; `strategies` are what it uses.
    """
    together = all(strategy.batched for strategy in strategies)

    def key(number: int) -> Any:
        return (len(images[number]), keeps[number]) if together else number

    def choose_some(numbers: list[int]) -> list[Selection]:
        some, keep = [images[number] for number in numbers], keeps[numbers[0]]
        own = [score for number in numbers if (score := scores[number]) is not None]
        if len(some) == 1:
            return [choose(some[0], scores[numbers[0]], keep)]
        return selections_of(choose(stack(some), torch.stack(own) if own else None, keep))

    return in_groups(images, key, choose_some)
