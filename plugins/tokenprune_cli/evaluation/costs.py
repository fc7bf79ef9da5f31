# SPDX-License-Identifier: Apache-2.0
"""What the language model spends on a prompt: arithmetic by an exact formula, cache as it really is.

Counted as operations: every multiplication and addition of the decoder layers' matrix products, attention
over the full square of rows as fused kernels are counted (`torch.utils.flop_counter` gives the same), and
the output layer for the last row. Norms, activations and rotary embeddings are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenprune_cli.evaluation.answering import Answered
from tokenprune_cli.evaluation.kv_cache import attention_heads, rows_per_layer


@dataclass(frozen=True)
class Costs:
    """Means over the questions: visual rows left in the end, those entering each layer, bytes, operations."""

    visual_tokens: float
    visual_rows: tuple[float, ...]
    kv_bytes: float
    prefill_flops: float


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


def mean_costs(answers: Sequence[Answered], config: Any) -> Costs:
    """Average what the answers cost; operations are those of each question on its own, without padding.

    Raises
    ------
    ValueError
        When there are no answers.
    """
    if not answers:
        raise ValueError("a mean needs at least one answer")
    n = len(answers)
    return Costs(
        visual_tokens=sum(a.n_visual for a in answers) / n,
        visual_rows=tuple(sum(layer) / n for layer in zip(*map(visual_rows, answers), strict=True)),
        kv_bytes=sum(a.kv_bytes for a in answers) / n,
        prefill_flops=sum(prefill_flops(config, a.rows) for a in answers) / n,
    )


def visual_rows(answered: Answered) -> list[int]:
    """Visual rows entering each layer: all rows but the text's, which are as many everywhere."""
    text = answered.rows[-1] - answered.n_visual
    return [rows - text for rows in answered.rows]
