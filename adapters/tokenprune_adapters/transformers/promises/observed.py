# SPDX-License-Identifier: Apache-2.0
"""Run a model with fixed answers, and record the inputs of its language model."""

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
    """The result of `generate`: the rows (B, T, D) that entered the head, and the cache."""

    rows: Tensor
    kv: Any


def answered(adapter: VisionLanguageFacts, inputs: dict[str, Any], tokens: Sequence[int]) -> Answered:
    """Run `generate` with `tokens` (T) as the answer of each row; the last one is not fed back."""
    heads: list[Tensor] = []

    def force(module: Any, args: tuple[Any, ...], logits: Tensor) -> Tensor:
        heads.append(args[0][:, -1].detach().clone())
        forced = torch.zeros_like(logits)  # some models' own `generate` ignores what is to force tokens
        forced[..., tokens[len(heads) - 1]] = 1
        return forced

    kv = stock.new_kv(adapter.language_model.config)
    hook = stock.head_of(adapter.model).register_forward_hook(force)
    try:
        stock.generate_these(adapter.model, inputs, tokens, kv)
    finally:
        hook.remove()
    return Answered(torch.stack(heads, 1), kv)


@dataclass
class StockRow:
    """One row (1, L) that the unpruned model answered with T tokens.

    `entered` (1, L, D): the input rows of its language model; `visual` and `added`: its DeepStack arguments;
    `layer_inputs` (1, L, ...): its inputs of single layers; `others`: further arguments (1, L, ...) by name.
    `positions` (..., 1, L + T - 1): the inputs of its rotary embedding for prompt and answer. `spans`: the
    slots of its images.
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
    layer_inputs: Tensor | None
    others: dict[str, Tensor]
    _before: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def observe(cls, adapter: VisionLanguageFacts, inputs: dict[str, Any], tokens: Sequence[int]) -> StockRow:
        """Run the unpruned model and record its inputs."""
        calls: list[LanguageCall] = []
        positions: list[Tensor] = []
        signatures = adapter.signatures(False)

        def language(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            calls.append(signatures.language.read(LanguageCall, args, kwargs))

        def rotary(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            if len(positions) < len(calls):  # once per call, though some layers have their own embedding
                positions.append(signatures.rotary.read(RotaryCall, args, kwargs).positions)

        with _watching((adapter.language_model, language), (adapter.rotary, rotary)):
            answer = answered(adapter, inputs, tokens)
        first = calls[0]
        assert first.embeds is not None
        places, shape = torch.cat(positions, -1), first.embeds.shape[:2]
        others = {n: v for n, v in first.rest.items() if isinstance(v, Tensor) and v.shape[:2] == shape}
        return cls(
            adapter, inputs, tokens, spans_of(adapter, inputs), answer,
            first.embeds, places, first.visual, first.added, first.layer_inputs, others,
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
        """Embeddings (1, T - 1, D) of the answer's tokens that are fed back."""
        table = stock.embedding_table(self.adapter.model)
        rows: Tensor = table(self._fed_back())
        return rows.to(self.entered)

    def all_layer_inputs(self) -> Tensor | None:
        """Inputs of single layers (1, L + T - 1, ...) for prompt and answer; None if there are none."""
        if self.layer_inputs is None:
            return None
        more = self.adapter.token_arguments(self._fed_back())["layer_inputs"]
        return torch.cat([self.layer_inputs, more.to(self.layer_inputs)], 1)

    def _fed_back(self) -> Tensor:
        """The answer's tokens that are fed back, (1, T - 1)."""
        device = stock.embedding_table(self.adapter.model).weight.device
        return torch.tensor([self.tokens[:-1]], device=device)


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    rows: Tensor = args[0] if args else kwargs[stock.ARGUMENTS["hidden"][0]]
    return rows.detach().clone()


@contextmanager
def _watching(*pairs: tuple[Any, Callable[[Any, Any, dict[str, Any]], None]]) -> Iterator[None]:
    """Context manager that calls functions before modules run."""
    hooks = [module.register_forward_pre_hook(look, with_kwargs=True) for module, look in pairs]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
