# SPDX-License-Identifier: Apache-2.0
"""Tensor-parallel ranks: gather sharded tensors, and broadcast the selection."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from tokenprune import Selection

from . import stock


def whole(share: Tensor, dim: int, ranks: int) -> Tensor:
    """Gather the shards of a tensor along `dim`; returned unchanged if there is one rank."""
    if ranks == 1:
        return share
    gathered: Tensor = stock.function("all_gather")(share.contiguous(), dim)
    return gathered


def agreed(selection: Selection) -> Selection:
    """Broadcast the first rank's selection to every rank.

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
