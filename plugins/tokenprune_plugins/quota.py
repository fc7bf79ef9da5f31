# SPDX-License-Identifier: Apache-2.0
"""Divide the budget among runs of tokens in proportion to their scores, as in HoloV (arXiv 2510.02912)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune
from tokenprune.functional import even_slots, float64_device, top_slots

VARIANCE_WEIGHT = 0.09  # of the variance of the cosines, in the official score of a run
SCALE = 1000  # the official code multiplies attention by it, except in a run of one token
EPS = 1e-6  # of the official code
ROUNDING = 1e-9  # shares this close below a whole number are that number


@dataclass(frozen=True)
class QuotaSelector(tokenprune.Selector):
    """Divides the budget among runs of consecutive tokens, then selects the highest scores of each run.

    A run's share is proportional to its mean score. Without scores, the tokens are evenly spaced, so that all
    runs have equal shares.

    Parameters
    ----------
    groups
        Number of runs, at most one for each token. None: ``max(1, int(1024 / 576 * N / keep))``, the official
        rule for Qwen2.5-VL.
    official
        Reproduce the picks of the official code: the official score of a run, and what a run's quota exceeds
        its size by is lost, so that fewer than `keep` tokens may be returned.
    """

    name: ClassVar[str] = "quota"
    batched: ClassVar[bool] = True
    by_position: ClassVar[bool] = True
    groups: int | None = 16
    official: bool = False

    def __post_init__(self) -> None:
        if self.groups is not None and self.groups < 1:
            raise tokenprune.OptionError(f"groups must be at least 1, or None, got {self.groups}")

    @property
    def adaptive(self) -> bool:
        """Whether fewer than `keep` tokens may be returned: if `official`."""
        return self.official

    def select(
        self, tokens: tokenprune.VisualTokens, scores: Tensor | None, keep: int
    ) -> tokenprune.Selection:
        """Return `keep` tokens (at most, if `official`), picked run by run."""
        n, batch = len(tokens), tokens.features.shape[:-2]
        if scores is None:
            slots = even_slots(n, keep, tokens.features.device)
            return tokenprune.Selection.from_order(slots.expand(*batch, keep))
        scores = scores.to(float64_device(scores.device))
        sizes = run_sizes(n, max(1, int(1024 / 576 * n / keep)) if self.groups is None else self.groups)
        if self.official:
            weights = crop_scores(tokens.features, scores, sizes)
            shares = torch.minimum(official_quotas(weights, keep), sizes)
        else:
            means = in_runs(scores, sizes).sum(-1) / sizes.to(scores.device)
            shares = quotas(means.cpu().double(), sizes, keep)
        order = best_of_runs(scores, sizes, shares.to(scores.device))
        return tokenprune.Selection.from_order(order.view(*batch, -1).to(tokens.features.device))


def run_sizes(n: int, groups: int) -> Tensor:
    """Return the lengths of P = min(groups, n) runs of n tokens, (P,): the first n mod P have one more."""
    each, longer = divmod(n, min(groups, n))
    sizes = torch.full((min(groups, n),), each)
    sizes[:longer] += 1
    return sizes


def in_runs(values: Tensor, sizes: Tensor, fill: float = 0.0) -> Tensor:
    """Split values (..., N) into runs of `sizes` (P,), (..., P, R) in float64, shorter runs filled up."""
    longest, sizes = int(sizes.max()), sizes.to(values.device)
    runs = values.new_full((*values.shape[:-1], len(sizes), longest), fill, dtype=torch.float64)
    runs[..., torch.arange(longest, device=values.device) < sizes.unsqueeze(-1)] = values.detach().double()
    return runs


def quotas(means: Tensor, sizes: Tensor, keep: int) -> Tensor:
    """Divide `keep` tokens among runs in proportion to their means, (..., P) -> (..., P); exactly `keep`.

    Shares are rounded down, and each remaining token goes to another run, the largest mean first. What
    exceeds a run's size is given to runs with room, one token for each in every round, the largest mean
    first. Ties go to the first run. Negative means count as 0; if all are 0, shares are equal.

    Parameters
    ----------
    sizes
        Lengths of the runs, (P,), together at least `keep`.
    """
    weights = means.clamp(min=0)
    total = weights.sum(-1, keepdim=True)
    weights = torch.where(total > 0, weights, torch.ones_like(weights))
    ideal = weights * keep / weights.sum(-1, keepdim=True)
    order = top_slots(weights, weights.shape[-1])
    shares = torch.minimum(_with_remainder((ideal + ROUNDING).floor().long(), order, keep), sizes)
    rounds = torch.arange(int(sizes.max()) + 1)  # how many a run may have got after each round
    after = torch.minimum(shares.unsqueeze(-1) + rounds, sizes.unsqueeze(-1))  # (..., P, rounds)
    n_full_rounds = (after.sum(-2, keepdim=True) <= keep).sum(-1, keepdim=True) - 1
    shares = after.gather(-1, n_full_rounds.expand(*after.shape[:-1], 1)).squeeze(-1)
    has_room = (shares < sizes).gather(-1, order)
    is_next = has_room & (has_room.cumsum(-1) <= keep - shares.sum(-1, keepdim=True))
    return shares.scatter_add(-1, order, is_next.long())


def official_quotas(weights: Tensor, keep: int) -> Tensor:
    """Divide `keep` tokens among runs as the official code does, whatever their sizes, (P,) -> (P,)."""
    shares = weights / (weights.sum() + EPS)
    order = top_slots(shares, len(shares))
    return _with_remainder((shares * keep).floor().long(), order, keep)


def _with_remainder(shares: Tensor, order: Tensor, keep: int) -> Tensor:
    """Add the tokens missing from `keep` to the first runs in `order`, at most one for each."""
    first = torch.arange(order.shape[-1]) < keep - shares.sum(-1, keepdim=True)
    return shares.scatter_add(-1, order, first.long())


def crop_scores(features: Tensor, scores: Tensor, sizes: Tensor) -> Tensor:
    """Return the official code's score of each run, (N, D) and (N,) -> (P,), in float64 on the CPU.

    To a token's attention it adds the variance of the token's cosines within the run, scaled so that it
    averages to 0.09 times the mean attention. So the score is 1.09 times that mean.
    """
    rows, attention = features.detach().cpu().double(), scores.detach().cpu().double()
    lengths = sizes.tolist()
    of_runs = []
    for run, own in zip(torch.split(rows, lengths), torch.split(attention, lengths), strict=True):
        if len(run) == 1:
            of_runs.append(own[0])
            continue
        unit = run / (run.norm(dim=-1, keepdim=True) + EPS)
        cosine = (unit @ unit.mT).fill_diagonal_(0)
        mean = cosine.sum(-1, keepdim=True) / (len(run) - 1)
        variance = (cosine - mean).square().sum(-1) / (len(run) - 1)
        scaled = SCALE * own
        scale = scaled.abs().mean() / (variance.mean() + EPS)
        of_runs.append((scaled + VARIANCE_WEIGHT * variance * scale).mean())
    return torch.stack(of_runs)


def best_of_runs(scores: Tensor, sizes: Tensor, shares: Tensor) -> Tensor:
    """Return the slots of the `shares` (..., P) highest scores of each run, run by run, (..., K).

    Within a run the highest comes first, ties to the lowest slot. Images of a stack must have equal totals.
    """
    runs = in_runs(scores, sizes, -torch.inf)
    ranked = top_slots(runs, runs.shape[-1])
    sizes = sizes.to(scores.device)
    slots = ranked + (sizes.cumsum(0) - sizes).unsqueeze(-1)
    is_kept = torch.arange(ranked.shape[-1], device=scores.device) < shares.unsqueeze(-1)
    return slots[is_kept].view(*scores.shape[:-1], -1)


@tokenprune.hookimpl
def tokenprune_selectors() -> list[type[tokenprune.Selector]]:
    """Return the selector class."""
    return [QuotaSelector]
