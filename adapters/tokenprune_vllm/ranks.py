# SPDX-License-Identifier: Apache-2.0
"""Gather sharded tensors and broadcast selections among tensor-parallel ranks."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from tokenprune import Selection

from . import stock


def on_first_rank() -> bool:
    """Return whether this process has the first rank."""
    return bool(stock.view("tensor_parallel_group", stock.function("tensor_parallel_group")()).is_first)


def gather_shards(shard: Tensor, dim: int, ranks: int) -> Tensor:
    """Gather the shards of a tensor along `dim`; a single rank's is returned unchanged."""
    if ranks == 1:
        return shard
    gathered: Tensor = stock.function("all_gather")(shard.contiguous(), dim)
    return gathered


def broadcast_selection(selection: Selection) -> Selection:
    """Broadcast the first rank's selection to all ranks.

    All ranks compute the same selection from the same rows, up to rounding errors.
    """
    group = stock.view("tensor_parallel_group", stock.function("tensor_parallel_group")())
    if group.size == 1:
        return selection
    indices = group.broadcast_from_first(selection.indices.contiguous())
    features = selection.features
    if features is not None:
        features = group.broadcast_from_first(features.contiguous())
    return dataclasses.replace(selection, indices=indices, features=features)
