# SPDX-License-Identifier: Apache-2.0
"""Runs of a model with given answers, and what passed in a stock one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import stock
from ..calls import LanguageCall, RotaryCall
from ..facts import VisionLanguageFacts
from ..images import ImageSpan
from .prompts import spans_of


@dataclass
class Answered:
    """What came out of `generate`: the rows (B, T, D) that went into the head, and the cache."""

    rows: Tensor
    kv: Any


def answered(adapter: VisionLanguageFacts, inputs: dict[str, Any], tokens: Sequence[int]) -> Answered:
    """Let the model, as it is now, answer each row with `tokens` (T); the last of them is not fed again."""
    heads: list[Tensor] = []

    def see(module: Any, args: tuple[Any, ...]) -> None:
        heads.append(args[0][:, -1].detach().clone())

    kv = stock.new_kv(adapter.language_model.config)
    hook = stock.head_of(adapter.model).register_forward_pre_hook(see)
    try:
        stock.generate_these(adapter.model, inputs, tokens, kv)
    finally:
        hook.remove()
    return Answered(torch.stack(heads, 1), kv)


@dataclass
class StockRow:
    """One row (1, L) that the unpruned model answered with T tokens.

    `entered` (1, L, D): the rows its language model was handed; `visual` and `added`: what else it got for
    visual ones. `positions` (..., 1, L + T - 1): of the prompt and the answer, as its rotary embedding got
    them. `spans`: where its images stand.
    """

    adapter: VisionLanguageFacts
    inputs: dict[str, Any]
    tokens: Sequence[int]
    spans: list[ImageSpan]
    answer: Answered
    entered: Tensor
    positions: Tensor
    visual: Tensor | None
    added: Any
    _before: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def observe(cls, adapter: VisionLanguageFacts, inputs: dict[str, Any], tokens: Sequence[int]) -> StockRow:
        """Run the unpruned model."""
        calls: list[LanguageCall] = []
        positions: list[Tensor] = []
        signatures = adapter.signatures(False)

        def language(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            calls.append(signatures.language.read(LanguageCall, args, kwargs))

        def rotary(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            if len(positions) < len(calls):  # once a call, though some layers have an embedding of their own
                positions.append(signatures.rotary.read(RotaryCall, args, kwargs).positions)

        with _watching((adapter.language_model, language), (adapter.rotary, rotary)):
            answer = answered(adapter, inputs, tokens)
        first = calls[0]
        assert first.embeds is not None
        places = torch.cat(positions, -1)
        return cls(
            adapter, inputs, tokens, spans_of(adapter, inputs), answer,
            first.embeds, places, first.visual, first.added,
        )  # fmt: skip

    def before(self, layer: int) -> Tensor:
        """The rows (1, L + T - 1, D) of prompt and answer that enter a decoder layer."""
        if layer not in self._before:
            rows: list[Tensor] = []
            with _watching(
                (self.adapter.layers[layer], lambda _, args, kwargs: rows.append(_hidden(args, kwargs)))
            ):
                answered(self.adapter, self.inputs, self.tokens)
            self._before[layer] = torch.cat(rows, 1)
        return self._before[layer]

    def answer_rows(self) -> Tensor:
        """Embeddings (1, T - 1, D) of the answer's tokens that are fed again."""
        table = stock.embedding_table(self.adapter.model)
        rows: Tensor = table(torch.tensor([self.tokens[:-1]], device=table.weight.device))
        return rows.to(self.entered)


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    rows: Tensor = args[0] if args else kwargs[stock.ARGUMENTS["hidden"][0]]
    return rows.detach().clone()


@contextmanager
def _watching(*pairs: tuple[Any, Callable[[Any, Any, dict[str, Any]], None]]) -> Iterator[None]:
    """Call functions before modules run, for the length of the block."""
    hooks = [module.register_forward_pre_hook(look, with_kwargs=True) for module, look in pairs]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
