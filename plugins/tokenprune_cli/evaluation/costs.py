# SPDX-License-Identifier: Apache-2.0
"""What the language model spends on a prompt: its arithmetic, by an exact formula.

Counted as operations: every multiplication and addition of the decoder layers' matrix products, attention
over the full square of rows as fused kernels are counted (`torch.utils.flop_counter` gives the same), and
the output layer for the last row. Norms, activations and rotary embeddings are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenprune_cli.evaluation.kv_cache import attention_heads, rows_per_layer


def prefill_flops(config: Any, rows: int | Sequence[int]) -> int:
    """Floating-point operations of one prompt's prefill in a decoder of gated layers (Llama, Mistral, Qwen).

    Parameters
    ----------
    config
        The language model's configuration (`model.config.text_config`).
    rows
        Rows entering the layers: one number for all, or one for each layer.

    Raises
    ------
    ValueError
        When there are not as many numbers as layers.
    """
    heads, kv_heads, width = attention_heads(config)
    d: int = config.hidden_size
    weights = d * width * (2 * heads + 2 * kv_heads) + 3 * d * config.intermediate_size
    layers: int = sum(2 * L * weights + 4 * L * L * heads * width for L in rows_per_layer(config, rows))
    last_row: int = 2 * d * config.vocab_size
    return layers + last_row
