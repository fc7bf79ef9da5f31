# SPDX-License-Identifier: Apache-2.0
"""Divide the budget among groups by their numbers of distinct tokens, as in PruneSID (arXiv 2603.09480)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tokenprune.functional import top_slots

PER_GROUP = 5  # most tokens of a group that the official code first allows for each 64 of the budget


def group_quotas(survivors: Tensor, sizes: Tensor, keep: int, reserved: int = 0) -> Tensor:
    """Divide exactly `keep` tokens among groups, (G,) -> (G,), all on the CPU.

    Every group that has tokens gets one. The others are divided in proportion to `survivors`, by rounding the
    cumulative shares half to even in float32. A group's limit is 5 ceil(T / 64) tokens with T = keep +
    reserved, at most its survivors; the limits of all groups rise together, up to their sizes, until they add
    up to T. What groups cannot take because of their limits goes to those with most survivors, the first of
    equal ones. If there are more groups than tokens to keep, the first groups get one each.

    Parameters
    ----------
    survivors
        Number of tokens of each group that were not suppressed, at most its size.
    sizes
        Number of tokens of each group, together at least `keep`.
    """
    total = keep + reserved
    least = sizes.clamp(max=1)
    limits = _raised(
        torch.minimum(survivors, sizes).clamp(max=PER_GROUP * math.ceil(total / 64)), sizes, total
    )
    rest = max(0, keep - int(least.sum()))
    bounds = ((survivors / survivors.sum()).cumsum(0) * rest).round().long()
    shares = torch.minimum(bounds.diff(prepend=bounds.new_zeros(1)) + least, limits)
    order = top_slots(survivors, len(survivors))
    room = (limits - shares)[order]
    missing = rest + least.sum() - shares.sum()
    shares[order] += torch.minimum((missing - (room.cumsum(0) - room)).clamp(min=0), room)
    return shares.cumsum(0).clamp(max=keep).diff(prepend=shares.new_zeros(1))


def _raised(limits: Tensor, sizes: Tensor, total: int) -> Tensor:
    """Raise all limits by the same number, but none above its size, until they add up to `total` or all."""
    raised = torch.minimum(limits + torch.arange(int(sizes.max()) + 1).unsqueeze(-1), sizes)  # (steps, G)
    enough = raised.sum(-1) >= min(total, int(sizes.sum()))
    return raised[int(enough.int().argmax())]
