# SPDX-License-Identifier: Apache-2.0
"""Stacks of equal images, for strategies that process them together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .selection import Selection
from .signals import SIGNALS
from .strategy import Strategy
from .tokens import VisualTokens

STACK_TOKENS = 16384  # limit on the tokens of a stack, which bounds the memory of strategies


def stack(images: Sequence[VisualTokens]) -> VisualTokens:
    """Stack images of N tokens each into (B, N, D); signals are stacked on first use."""
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
    """Return one image of a stack."""
    signals: dict[str, Any] = {}
    for name in tokens.provides:
        known = SIGNALS.get(name)
        shared = known is not None and known.of_the_model
        signals[name] = tokens.signal(name) if shared else functools.partial(_row, tokens, name, number)
    return VisualTokens(tokens.features[number], signals, tokens.layout, tokens.layer)


def _row(tokens: VisualTokens, name: str, number: int) -> Any:
    return tokens.signal(name)[number]


def selections_of(stacked: Selection) -> list[Selection]:
    """Split the selection of a stack into those of its images."""
    fields = vars(stacked)
    columns = [[None] * len(stacked.indices) if field is None else list(field) for field in fields.values()]
    return [Selection(**dict(zip(fields, values, strict=True))) for values in zip(*columns, strict=True)]


def in_chunks(
    numbers: Iterable[int], key: Callable[[int], Hashable], length: Callable[[int], int]
) -> list[list[int]]:
    """Divide the numbers of images into groups of the same key, with at most `STACK_TOKENS` tokens each."""
    groups: dict[Hashable, list[int]] = {}
    for number in numbers:
        groups.setdefault(key(number), []).append(number)
    chunks = []
    for group in groups.values():
        limit = max(1, STACK_TOKENS // length(group[0]))
        chunks += [group[start : start + limit] for start in range(0, len(group), limit)]
    return chunks


def in_groups(
    images: Sequence[VisualTokens],
    key: Callable[[int], Hashable],
    choose: Callable[[list[int]], list[Selection]],
) -> list[Selection]:
    """Call `choose` on the chunks of `in_chunks`; return the selections in the order of the images."""
    selections: dict[int, Selection] = {}
    for chunk in in_chunks(range(len(images)), key, lambda number: len(images[number])):
        selections.update(zip(chunk, choose(chunk), strict=True))
    return [selections[number] for number in range(len(images))]


def choose_parts(
    choose: Callable[[VisualTokens, Tensor | None, int], Selection],
    strategies: Sequence[Strategy],
    images: Sequence[VisualTokens],
    scores: Sequence[Tensor | None],
    keeps: Sequence[int],
) -> list[Selection]:
    """Select within each of several images (the tiles of one), in stacks of equal size where possible.

    `choose` takes an image or a stack, its scores and a budget; `strategies` are those it uses.
    """
    can_stack = all(strategy.stacks for strategy in strategies)

    def key(number: int) -> Any:
        return (len(images[number]), keeps[number]) if can_stack else number

    def choose_group(numbers: list[int]) -> list[Selection]:
        group, keep = [images[number] for number in numbers], keeps[numbers[0]]
        group_scores = [score for number in numbers if (score := scores[number]) is not None]
        if len(group) == 1:
            return [choose(group[0], scores[numbers[0]], keep)]
        return selections_of(choose(stack(group), torch.stack(group_scores) if group_scores else None, keep))

    return in_groups(images, key, choose_group)
