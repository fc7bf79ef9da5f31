# SPDX-License-Identifier: Apache-2.0
"""What the language model spends on a prompt, by exact formulas: operations and key-value cache.

Operations are the multiplications and additions in the matrix products of the decoder layers, with attention
over the full square of rows, as fused kernels are counted (`torch.utils.flop_counter` gives the same), and
the output layer for the last row. Norms, activations and rotary embeddings are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def prefill_flops(config: Any, rows: int | Sequence[int]) -> int:
    """Return the FLOPs of a prompt's prefill in a decoder with gated layers, such as Llama, Mistral or Qwen.

    Parameters
    ----------
    config
        The language model's configuration (`model.config.text_config`).
    rows
        Rows entering the layers: a number for all, or one for each layer.

    Raises
    ------
    ValueError
        If there are not as many numbers as layers.
    """
    heads, kv_heads, width = _attention_heads(config)
    d: int = config.hidden_size
    weights = d * width * (2 * heads + 2 * kv_heads) + 3 * d * config.intermediate_size
    layers: int = sum(2 * L * weights + 4 * L * L * heads * width for L in _rows_per_layer(config, rows))
    last_row: int = 2 * d * config.vocab_size
    return layers + last_row


def kv_cache_bytes(config: Any, rows: int | Sequence[int], bytes_per_value: int) -> int:
    """Return the size of a prompt's keys and values in bytes.

    Parameters
    ----------
    config
        The language model's configuration (`model.config.text_config`).
    rows
        Rows of the prompt: a number for all layers, or one for each.
    bytes_per_value
        4 for float32, 2 for half precision.
    """
    _, kv_heads, width = _attention_heads(config)
    return sum(2 * n * kv_heads * width * bytes_per_value for n in rows_held(config, rows))


def rows_held(config: Any, rows: int | Sequence[int]) -> list[int]:
    """Return the rows in each layer's cache after a prompt; sliding layers hold their window less one."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return [
        n if window is None or kind != "sliding_attention" else min(n, window - 1)
        for n, kind in zip(_rows_per_layer(config, rows), kinds, strict=True)
    ]


def _rows_per_layer(config: Any, rows: int | Sequence[int]) -> list[int]:
    n_layers: int = config.num_hidden_layers
    if isinstance(rows, int):
        return [rows] * n_layers
    if len(rows) != n_layers:
        raise ValueError(f"{len(rows)} numbers of rows for {n_layers} layers")
    return list(rows)


def _attention_heads(config: Any) -> tuple[int, int, int]:
    """Return the numbers of query heads and key-value heads, and the width of a head."""
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return heads, getattr(config, "num_key_value_heads", None) or heads, width
