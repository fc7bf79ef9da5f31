# SPDX-License-Identifier: Apache-2.0
"""Select the tokens that cover the others best, weighted by scores, as in SCOPE (arXiv 2510.24214).

Token i is covered to the extent cov_i: its largest cosine to a chosen token, or 0 if that is negative. The
gain of token j is sum_i max(0, cos(i, j) - cov_i).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune
from tokenprune.functional import Similarity, float64_device

from .coverage_lazy import pick_lazily

LIMIT = 2**26  # similarities compared with the coverage at once
COMBINE = ("multiply", "add")
SPACES = ("features", "pre_features")


@dataclass(frozen=True)
class CoverageSelector(tokenprune.Selector):
    """Picks argmax gain_j s_j^alpha, where the gain is what token j adds to the coverage of all tokens.

    Without scores s_j is 1; negative scores count as 0.

    Parameters
    ----------
    alpha
        Exponent of the scores, at least 0; with 0 they are ignored.
    combine
        `"multiply"`: gain times s^alpha. `"add"`: gain plus s^alpha, which depends on the unit of the scores.
    space
        The rows that are compared: `"features"`, or `"pre_features"`, the input rows of the projector. If
        that merges several patches into a token, their rows are concatenated.
    """

    name: ClassVar[str] = "coverage"
    batched: ClassVar[bool] = True
    alpha: float = 1.0
    combine: str = "multiply"
    space: str = "features"  # type: ignore[misc]  # an option here

    def __post_init__(self) -> None:
        if not (self.alpha >= 0 and math.isfinite(self.alpha)):
            raise tokenprune.OptionError(f"alpha must be a number of at least 0, got {self.alpha}")
        for option, allowed in (("combine", COMBINE), ("space", SPACES)):
            if getattr(self, option) not in allowed:
                listed, got = " or ".join(map(repr, allowed)), getattr(self, option)
                raise tokenprune.OptionError(f"coverage's {option} must be {listed}, got {got!r}")

    @property
    def needs(self) -> frozenset[str]:
        """The tower's rows, if they are compared."""
        return frozenset({"pre_features"} if self.space == "pre_features" else ())

    def nested(self, scored: bool) -> bool:
        """Each pick depends only on those before it."""
        return True

    def select(
        self, tokens: tokenprune.VisualTokens, scores: Tensor | None, keep: int
    ) -> tokenprune.Selection:
        """Return `keep` tokens, those that cover most first."""
        rows: Tensor = tokens.features if self.space == "features" else tokens.signal("pre_features")
        rows = rows.detach().flatten(tokens.features.ndim - 1)
        rows = rows.to(float64_device(rows.device))
        weights = rows.new_ones(rows.shape[:-1]) if scores is None else scores.detach().to(rows.device)
        weights = self.powers(weights)
        rows, weights = rows.reshape(-1, *rows.shape[-2:]), weights.reshape(-1, len(tokens))
        order = best_coverage(rows, weights, self.combine == "add", keep).to(tokens.features.device)
        return tokenprune.Selection.from_order(order if tokens.is_batch else order.squeeze(0))

    def powers(self, scores: Tensor) -> Tensor:
        """Return s^alpha of scores (..., N); to be multiplied, they are divided by the largest score."""
        scores = scores.double().clamp(min=0)
        if self.combine == "multiply":
            highest = scores.amax(-1, keepdim=True)
            scores = scores / highest.masked_fill(highest == 0, 1)
        return scores**self.alpha


class Cosines(Similarity):
    """Cosine similarities of rows (B, N, D) whose length was computed in float64.

    A gain adds up hundreds of similarities, and a rounded length changes all of them in the same direction.
    """

    @torch.no_grad()
    def __init__(self, rows: Tensor, whole: bool = True) -> None:
        super().__init__(rows, whole=False)
        b, n, _ = rows.shape
        if whole and n * n <= LIMIT:
            self.matrix = self.unit.new_empty(b, n, n)
        for number, unit in enumerate(self.unit):  # one by one: a stack in float64 fits into no cache
            length = torch.linalg.vector_norm(unit, dim=-1, keepdim=True, dtype=torch.float64)
            unit.copy_(unit / length.masked_fill(length == 0, 1))
            if self.matrix is not None:
                torch.mm(unit, unit.mT, out=self.matrix[number])


@torch.no_grad()
def best_coverage(rows: Tensor, weights: Tensor, adds: bool, keep: int) -> Tensor:
    """Return slots (B, keep) in the order they are picked.

    Parameters
    ----------
    rows
        (B, N, D), compared by cosine in float32.
    weights
        (B, N), not negative; multiplied with the gains, or added if `adds`.
    """
    n_fit = max(1, LIMIT // rows.shape[1] ** 2)
    pick = pick_lazily if rows.device.type == "cpu" else _pick_by_all_gains
    parts = zip(torch.split(rows, n_fit), torch.split(weights, n_fit), strict=True)
    return torch.cat([pick(Cosines(part), weight, adds, keep) for part, weight in parts])


def _pick_by_all_gains(similarity: Similarity, weights: Tensor, adds: bool, keep: int) -> Tensor:
    """Implement `best_coverage` on any device, computing the gain of every token for each pick."""
    b, n = weights.shape
    batch, step = torch.arange(b, device=weights.device), max(1, LIMIT // (b * n))
    cover = torch.zeros(b, n, dtype=torch.float32, device=weights.device)
    free = torch.zeros_like(weights)  # -inf where taken
    order = torch.empty(b, keep, dtype=torch.long, device=weights.device)
    for number in range(keep):
        gains = []
        for start in range(0, n, step):
            if similarity.matrix is not None:
                block = similarity.matrix[:, start : start + step]
            else:
                block = similarity.unit[:, start : start + step] @ similarity.unit.mT
            gains.append((block - cover.unsqueeze(1)).clamp_(min=0).sum(-1, dtype=weights.dtype))
        gain = torch.cat(gains, -1)
        value = gain + weights if adds else gain * weights
        slots = order[:, number] = (value + free).argmax(-1)
        free[batch, slots] = -torch.inf
        cover = torch.maximum(cover, similarity.column(slots))
    return order


@tokenprune.hookimpl
def tokenprune_selectors() -> list[type[tokenprune.Selector]]:
    """Return the selector class."""
    return [CoverageSelector]
