# SPDX-License-Identifier: Apache-2.0
"""Pick from one image or a stack of images by a function of a stack."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

import tokenprune
from tokenprune.functional import float64_device


def select_in_stack(
    tokens: tokenprune.VisualTokens, scores: Tensor | None, pick: Callable[[Tensor, Tensor], Tensor]
) -> tokenprune.Selection:
    """Return the selection of the slots (B, K) that `pick` returns for features (B, N, D) and scores (B, N).

    One image is a stack of one. Without scores all are 1. If their device has no float64, `pick` gets both on
    the CPU.
    """
    features = tokens.features if tokens.is_batch else tokens.features.unsqueeze(0)
    weights = features.new_ones(features.shape[:2]) if scores is None else scores.view(features.shape[:2])
    place = float64_device(features.device)
    order = pick(features.to(place), weights.to(place)).to(features.device)
    return tokenprune.Selection.from_order(order if tokens.is_batch else order.squeeze(0))
