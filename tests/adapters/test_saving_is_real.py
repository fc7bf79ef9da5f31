# SPDX-License-Identifier: Apache-2.0
"""Promise 5: the cache shrinks by exactly the dropped tokens, and SDPA stays on."""

import pytest
import tiny_families
import torch
from cache_names import cache_of
from tiny_models import llava_inputs

import tokenprune


def test_slots_fall_by_exactly_the_dropped_tokens(llava):
    inputs = llava_inputs((3, "I", 5, "I", 2))
    with tokenprune.apply(llava, keep=5) as handle:
        cache = cache_of(llava(**inputs, use_cache=True))
        report = handle.last
    n = inputs["input_ids"].shape[1]
    assert {layer.keys.shape[2] for layer in cache.layers} == {n - 2 * 11}
    assert (report.n_before, report.n_after) == (32, 10)
    slot = 4 * 2 * 2 * 16 * 4  # layers, keys and values, heads, width, bytes
    assert (report.kv_bytes, report.kv_bytes_unpruned) == ((n - 22) * slot, n * slot)


def test_a_static_cache_uses_fewer_slots(llava_sdpa):
    inputs = llava_inputs((3, "I", 5))
    with tokenprune.apply(llava_sdpa, keep=5) as handle:
        out = llava_sdpa.generate(
            **inputs,
            max_new_tokens=2,
            do_sample=False,
            cache_implementation="static",
            return_dict_in_generate=True,
        )
        assert handle.last.kv_bytes_unpruned - handle.last.kv_bytes == 11 * 4 * 2 * 2 * 16 * 4
    layer = cache_of(out).layers[0]
    assert int(layer.cumulative_length) == inputs["input_ids"].shape[1] - 11 + 1


@pytest.mark.parametrize(("row", "stored"), [((3, "I", 5), 14), ((1, "I", 2), 9)])
def test_layers_that_slide_hold_their_window_at_most(row, stored):
    """Gemma 3: two of four layers see 12 tokens; a window already full loses nothing to pruning."""
    model, inputs = tiny_families.model("gemma3"), tiny_families.inputs("gemma3", row)
    n, slot = inputs["input_ids"].shape[1], 2 * 2 * 16 * 4  # keys and values, heads, width, bytes
    assert n == stored + 13
    unpruned = cache_of(model(**inputs, use_cache=True))
    static = {"max_new_tokens": 1, "do_sample": False, "cache_implementation": "static"}
    with tokenprune.apply(model, method="stride", keep=3) as handle:
        pruned = cache_of(model(**inputs, use_cache=True))
        report = handle.last
        model.generate(**inputs, **static)
        in_static = handle.last
    for cache, reported, rows in ((pruned, report.kv_bytes, stored), (unpruned, report.kv_bytes_unpruned, n)):
        assert sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) == reported
        assert reported == slot * 2 * (rows + min(rows, 11))
    assert in_static.kv_bytes == slot * 2 * (stored + min(stored, 12))
    assert in_static.kv_bytes_unpruned == slot * 2 * (n + 12)


def test_attention_never_sees_the_dropped_tokens_nor_returns_a_map(llava_sdpa, monkeypatch):
    inputs = llava_inputs((3, "I", 5))
    sizes = []
    original = torch.nn.functional.scaled_dot_product_attention

    def watched(query, key, *args, **kwargs):
        sizes.append(key.shape[-2])
        return original(query, key, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    with tokenprune.apply(llava_sdpa, keep=5):
        sizes.clear()  # of the rehearsal
        llava_sdpa(**inputs)
    assert sizes == [17, 17, 17] + [25 - 11] * 4  # three tower layers, four decoder layers


@pytest.mark.parametrize("keep", [1, 7, 15])
def test_without_padding_no_mask_is_built(llava_sdpa, keep):
    inputs = llava_inputs((3, "I", 5))
    masks = []
    layer = llava_sdpa.model.language_model.layers[0]
    hook = layer.register_forward_pre_hook(
        lambda m, a, k: masks.append(k["attention_mask"]), with_kwargs=True
    )
    try:
        with tokenprune.apply(llava_sdpa, keep=keep):
            masks.clear()  # of the rehearsal
            llava_sdpa.generate(**inputs, max_new_tokens=3, do_sample=False)
    finally:
        hook.remove()
    assert masks == [None] * 3
