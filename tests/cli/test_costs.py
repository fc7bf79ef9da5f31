# SPDX-License-Identifier: Apache-2.0
"""Arithmetic and cache sizes: the formulas against PyTorch's own counts and a real cache."""

import pytest
import torch
from cache_names import CACHE
from tokenprune_evaluation.costs import kv_cache_bytes, prefill_flops, rows_held
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Qwen2Config,
)

ROWS = 17
ON_CPU = {  # PyTorch 2.14 has no formula for the attention it runs there
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: (
        sdpa_flop_count(query, key, value)
    )
}


def config(kv_heads=4, kind=LlamaConfig, **other):
    return kind(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        vocab_size=50,
        **other,
    )


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_operations_are_what_pytorch_counts(attention, kv_heads):
    model = LlamaForCausalLM._from_config(config(kv_heads), attn_implementation=attention).eval()
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter, torch.no_grad():
        model(torch.arange(ROWS)[None], logits_to_keep=1)
    counts = counter.get_flop_counts()
    # transformers 5.17 makes the rotary table by a matrix product, later ones do not; it is no layer's work
    rotary = sum(sum(c.values()) for module, c in counts.items() if module.endswith("rotary_emb"))
    assert prefill_flops(model.config, ROWS) == counter.get_total_flops() - rotary


def test_rows_may_differ_from_layer_to_layer():
    c = config()
    last = 2 * 64 * 50
    alone = [prefill_flops(c, n) - last for n in (17, 17, 5)]
    assert prefill_flops(c, (17, 17, 5)) - last == sum(alone) // 3
    assert prefill_flops(c, [17] * 3) == prefill_flops(c, 17)


def test_rows_for_the_wrong_number_of_layers_are_refused():
    with pytest.raises(ValueError, match="2 numbers of rows for 3 layers"):
        prefill_flops(config(), [17, 5])
    with pytest.raises(ValueError, match="4 numbers of rows for 3 layers"):
        kv_cache_bytes(config(), [1] * 4, 4)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("head_dim", [None, 24])
def test_cache_bytes_are_those_of_a_real_cache(kv_heads, head_dim):
    c = config(kv_heads, **({} if head_dim is None else {"head_dim": head_dim}))
    model, cache = LlamaForCausalLM(c).eval(), DynamicCache(config=c)
    with torch.no_grad():
        model(torch.arange(ROWS)[None], **{CACHE: cache})
    real = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert kv_cache_bytes(c, ROWS, 4) == real


MIXED = ["full_attention", "sliding_attention", "full_attention"]


@pytest.mark.parametrize("rows", [5, ROWS])
@pytest.mark.parametrize(
    ("kind", "more"),
    [(MistralConfig, {}), (Qwen2Config, {"use_sliding_window": True, "layer_types": MIXED})],
    ids=["all slide", "one slides"],
)
def test_a_layer_that_slides_holds_its_window_at_most(kind, more, rows):
    c = config(2, kind, sliding_window=9, **more)
    model, cache = AutoModelForCausalLM.from_config(c).eval(), DynamicCache(config=c)
    with torch.no_grad():
        model(torch.arange(rows)[None], **{CACHE: cache})
    held = [layer.keys.shape[2] for layer in cache.layers]
    few = min(rows, 8)
    assert rows_held(c, rows) == held == ([rows, few, rows] if more else [few] * 3)
    assert kv_cache_bytes(c, rows, 4) == sum(2 * n * 2 * 16 * 4 for n in held)
