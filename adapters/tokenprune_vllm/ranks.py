# SPDX-License-Identifier: Apache-2.0
"""Tensor parallel ranks: whole tensors out of their shares, and one choice for all."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from tokenprune import Selection

from . import stock


def whole(share: Tensor, dim: int, ranks: int) -> Tensor:
    """Put the shares of a layer that is split over `ranks` together along `dim`; a whole one stays."""
    if ranks == 1:
        return share
    gathered: Tensor = stock.function("all_gather")(share.contiguous(), dim)
    return gathered


def agreed(selection: Selection) -> Selection:
    """The first rank's selection, on every rank.

    All ranks choose among the same rows by the same rules; this makes sure where their last bits differ.
    """
    ranks = stock.view("ranks", stock.function("ranks")())
    if ranks.number == 1:
        return selection
    indices = ranks.from_first(selection.indices.contiguous())
    features = selection.features
    if features is not None:
        features = ranks.from_first(features.contiguous())
    return dataclasses.replace(selection, indices=indices, features=features)
