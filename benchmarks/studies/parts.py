# SPDX-License-Identifier: Apache-2.0
"""Scorers and a selector used only by the studies."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import tokenprune
from tokenprune.functional import min_max, unit_rows


@dataclass(frozen=True)
class Remembered(tokenprune.Scorer):
    """Caches the scores of another scorer, so that each image is scored once for all its questions."""

    name: ClassVar[str] = "remembered"
    scorer: tokenprune.Scorer
    memory: dict[bytes, Tensor | None] = field(default_factory=dict, compare=False, repr=False)

    @property
    def needs(self) -> frozenset[str]:
        """Signals of the wrapped scorer."""
        return self.scorer.needs

    def check(self, model: nn.Module) -> None:
        """Check the wrapped scorer."""
        self.scorer.check(model)

    def score(self, tokens: tokenprune.VisualTokens) -> Tensor | None:
        """Return the wrapped scorer's scores, (N,)."""
        key = tokens.features.detach().float().cpu().numpy().tobytes()
        if key not in self.memory:
            self.memory[key] = self.scorer.score(tokens)
        return self.memory[key]


@dataclass(frozen=True)
class SumSelector(tokenprune.Selector):
    """Greedy like `diverse`, but with the sum of normalised score and distance instead of their product.

    Next pick: argmax over free i of w_i + min over chosen j of (1 - cos(z_i, z_j)); the first: argmax w.
    """

    name: ClassVar[str] = "sum"

    def select(
        self, tokens: tokenprune.VisualTokens, scores: Tensor | None, keep: int
    ) -> tokenprune.Selection:
        """Return `keep` tokens."""
        if scores is None:
            raise tokenprune.IncompatibleError(
                "the sum of score and distance needs scores, and the scorer returns None"
            )
        weights, unit = min_max(scores), unit_rows(tokens.features)
        order = [int(weights.argmax())]
        nearest = torch.full_like(weights, torch.inf)
        while len(order) < keep:
            nearest = torch.minimum(nearest, 1 - unit @ unit[order[-1]])
            gain = weights + nearest
            gain[order] = -torch.inf
            order.append(int(gain.argmax()))
        return tokenprune.Selection.from_order(torch.tensor(order, device=weights.device))


@dataclass(frozen=True)
class HalfDifferences(tokenprune.Scorer):
    """The paper's estimator with every step in half precision, as the official code computes it.

    Rows, directions, perturbed rows, the projector and the differences are rounded to `dtype`; norms and
    their mean are computed in float32.
    """

    name: ClassVar[str] = "half"
    dtype: torch.dtype = torch.float16
    n_directions: int = 64
    step_size: float = 0.01

    @property
    def needs(self) -> frozenset[str]:
        """The projector and its input."""
        return frozenset({"pre_features", "projector"})

    def check(self, model: nn.Module) -> None:
        """Raise an error unless the projector is linear -> activation -> linear."""
        adapter: Any = tokenprune.default_registry().adapter_for(model)(model)
        _plain(adapter.projector())

    @torch.no_grad()
    def score(self, tokens: tokenprune.VisualTokens) -> Tensor:
        """Return the sensitivities S, (N,)."""
        form = _plain(tokens.projector)
        rows = tokens.signal("pre_features").to(self.dtype)
        zoo: Any = tokenprune.scorer("zoo", n_directions=self.n_directions)
        biases = [None if bias is None else bias.to(self.dtype) for bias in (form.b1, form.b2)]
        half = dataclasses.replace(
            form, W1=form.W1.to(self.dtype), b1=biases[0], W2=form.W2.to(self.dtype), b2=biases[1]
        )

        total = torch.zeros(len(rows), device=rows.device)
        for direction in zoo.bank(rows.shape[-1], rows.device).to(self.dtype):
            step = self.step_size * direction
            total += (half(rows + step) - half(rows - step)).float().norm(dim=-1)
        return total / (2 * self.step_size * self.n_directions)


def _plain(projector: tokenprune.Projector) -> tokenprune.LinearForm:
    """Return the weights of a projector without a norm."""
    form = projector.linear_form()
    if form is None or form.norm_weight is not None:
        raise tokenprune.IncompatibleError(
            "differences in half precision need a linear -> activation -> linear projector, as in LLaVA"
        )
    return form
