# SPDX-License-Identifier: Apache-2.0
"""Size of a language model's key-value cache, by arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def rows_per_layer(config: Any, rows: int | Sequence[int]) -> list[int]:
    """Rows of each layer, from one number for all layers or one for each; ValueError for another number."""
    n_layers: int = config.num_hidden_layers
    if isinstance(rows, int):
        return [rows] * n_layers
    if len(rows) != n_layers:
        raise ValueError(f"{len(rows)} numbers of rows for {n_layers} layers")
    return list(rows)


def attention_heads(config: Any) -> tuple[int, int, int]:
    """Query heads, key-value heads and their width."""
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return heads, getattr(config, "num_key_value_heads", None) or heads, width


def rows_held(config: Any, rows: int | Sequence[int]) -> list[int]:
    """Rows each layer's cache has after a prompt: no more than its window less one where a layer slides."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return [
        n if window is None or kind != "sliding_attention" else min(n, window - 1)
        for n, kind in zip(rows_per_layer(config, rows), kinds, strict=True)
    ]


def kv_cache_bytes(config: Any, rows: int | Sequence[int], bytes_per_value: int) -> int:
    """Bytes of the keys and values of one prompt.

    Parameters
    ----------
    config
        The language model's configuration (`model.config.text_config`).
    rows
        Rows of the prompt: one number for all layers, or one for each.
    bytes_per_value
        4 for float32, 2 for half precision.
    """
    _, kv_heads, width = attention_heads(config)
    return sum(2 * n * kv_heads * width * bytes_per_value for n in rows_held(config, rows))
