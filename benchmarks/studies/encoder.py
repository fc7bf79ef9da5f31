# SPDX-License-Identifier: Apache-2.0
"""Sensitivity of the vision encoder's layers, measured like that of the projector.

A layer, or several consecutive layers, replaces the projector: S_i = 1/m sum_j || F(X + h u_j)_i - F(X - h
u_j)_i || / (2 h), where X are all input patch rows of an image, each perturbed along the same unit direction
u_j, and F(.)_i is the output row of token i. The class token is not perturbed. The paper (arXiv 2509.24837,
supplement D.3) does not define the sensitivity of layers; this is our interpretation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import tokenprune


class EncoderWatch:
    """Stores the input of each layer of a tower in the last observed call.

    Parameters
    ----------
    model
        A LLaVA or LLaVA-NeXT, whose tower rows enter the projector one by one.

    Raises
    ------
    IncompatibleError
        If the model has no such layers, or computes in half precision.
    """

    def __init__(self, model: Any) -> None:
        tower = getattr(getattr(model, "model", None), "vision_tower", None)
        tower = getattr(tower, "vision_model", tower)
        layers = getattr(getattr(tower, "encoder", None), "layers", None)
        feature = getattr(model.config, "vision_feature_layer", None)
        rule = getattr(model.config, "vision_feature_select_strategy", None)
        self.prefix = int(hasattr(getattr(tower, "embeddings", None), "class_embedding"))
        if not layers or not isinstance(feature, int) or rule != ("default" if self.prefix else "full"):
            raise tokenprune.IncompatibleError(
                "this study perturbs the input of layers of a vision encoder whose rows enter the projector "
                f"one by one, as in LLaVA and LLaVA-NeXT; {type(model).__name__} has none"
            )
        if next(layers.parameters()).dtype != torch.float32:
            raise tokenprune.IncompatibleError(
                "in half precision most of a small step through the encoder is rounded away; load the "
                "model in float32 (--dtype float32)"
            )
        self.layers: list[nn.Module] = list(layers)
        # hidden state i > 0 is the output of layer i; counted from the end both agree
        self.feature = len(self.layers) + feature + 1 if feature < 0 else feature
        self._entered: dict[int, tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = {}
        self._rows: dict[bytes, int] = {}
        self._scores: dict[tuple[int, int], Tensor] = {}
        self._nudging = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Store the tower's next call, inside the block."""

        def enter(number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._nudging:
                return
            if number == 1:
                self._rows.clear()
                self._scores.clear()
            hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            self._entered[number] = hidden.detach(), args[1:], rest

        def leave(output: Any) -> None:
            if self._nudging:
                return
            rows = _hidden(output)[:, self.prefix :].flatten(0, 1)
            self._rows.update({key: i for i, key in reversed(list(enumerate(_keys(rows))))})

        hooks = [
            layer.register_forward_pre_hook(lambda m, a, k, n=number: enter(n, a, k), with_kwargs=True)
            for number, layer in enumerate(self.layers, 1)
        ]
        hooks.append(self.layers[self.feature - 1].register_forward_hook(lambda m, a, out: leave(out)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def scores(self, rows: Tensor, first: int, last: int, bank: Tensor, step: float) -> Tensor:
        """Return the sensitivity of layers `first` ... `last` (from 1) at tokens with tower rows (N, D)."""
        if (first, last) not in self._scores:
            self._nudging = True  # the layers run again: not a new call
            try:
                self._scores[first, last] = self._sensitivity(first, last, bank, step).flatten()
            finally:
                self._nudging = False
        return self._scores[first, last][[self._rows[key] for key in _keys(rows)]]

    @torch.no_grad()
    def _sensitivity(self, first: int, last: int, bank: Tensor, step: float) -> Tensor:
        """Compute the sensitivity of every token of every view, (views, N); equal views only once."""
        hidden = self._entered[first][0]
        views = _keys(hidden.flatten(1))
        unique = list(dict.fromkeys(views))
        rows = hidden[[views.index(key) for key in unique]]
        total = torch.zeros(rows.shape[0], rows.shape[1] - self.prefix, device=rows.device)
        for direction in bank.to(rows.device):
            nudge = torch.zeros_like(rows)
            nudge[:, self.prefix :] = step * direction
            plus, minus = self._run(torch.cat([rows + nudge, rows - nudge]), first, last).chunk(2)
            total += (plus - minus)[:, self.prefix :].norm(dim=-1)
        return (total / (2 * step * len(bank)))[[unique.index(key) for key in views]]

    def _run(self, hidden: Tensor, first: int, last: int) -> Tensor:
        for number in range(first, last + 1):
            _, args, kwargs = self._entered[number]
            hidden = _hidden(self.layers[number - 1](hidden, *args, **kwargs))
        return hidden


@dataclass(frozen=True)
class EncoderScorer(tokenprune.Scorer):
    """Scores tokens by the sensitivity of encoder layers `first` ... `last`, with the directions of `zoo`."""

    name: ClassVar[str] = "encoder"
    watch: EncoderWatch = field(compare=False)
    first: int
    last: int

    @property
    def needs(self) -> frozenset[str]:
        """The tower's rows, which identify tokens."""
        return frozenset({"pre_features"})

    def score(self, tokens: tokenprune.VisualTokens) -> Tensor:
        """Return the sensitivities, (N,)."""
        rows: Tensor = tokens.signal("pre_features")
        zoo: Any = tokenprune.scorer("zoo")
        bank = zoo.bank(rows.shape[-1], torch.device("cpu"))
        return self.watch.scores(rows, self.first, self.last, bank, zoo.step_size)


def _hidden(output: Any) -> Tensor:
    """Return a layer's output rows, also from a tuple."""
    rows: Tensor = output[0] if isinstance(output, tuple) else output
    return rows


def _keys(rows: Tensor) -> list[bytes]:
    """Return a key that identifies each row (N, D)."""
    return [row.tobytes() for row in rows.detach().cpu().numpy()]
