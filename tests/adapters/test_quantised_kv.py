# SPDX-License-Identifier: Apache-2.0
"""Quantised key-value caches, which show no keys of their own: later turns run, and bytes are those held."""

import pytest
import tiny_families
import tiny_models
import torch
from cache_names import CACHE, cache_of
from model_cases import Case
from transformers import DynamicCache, cache_utils

import tokenprune

METHODS = ("zoo-exact", "visionzip", "fastv", "pyramiddrop", "sparsevlm", "dart")
FP8 = pytest.param(
    "fp8", marks=pytest.mark.skipif(not hasattr(cache_utils, "Fp8QuantizedLayer"), reason="new")
)
KINDS = (FP8, 1, 128)  # fp8, or quantised without loss with a residual of so many tokens
GREEDY = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}


class Exact(cache_utils.QuantizedLayer):
    """A quantised layer whose numbers lose nothing; `residual` tokens are not quantised yet."""

    def __init__(self, residual):
        super().__init__(residual_length=residual)

    def _quantize(self, tensor, axis):
        return tensor.clone(), {}

    def _dequantize(self, q_tensor):
        return q_tensor if isinstance(q_tensor, torch.Tensor) else q_tensor[0]


def quantised(model, kind):
    """A cache of a kind for a model's language model."""
    config = model.config.get_text_config()
    if kind == "fp8":
        return cache_utils.QuantizedCache("fp8", config)
    return cache_utils.Cache(layers=[Exact(kind) for _ in range(config.num_hidden_layers)])


def two_turns(model, first, more, cache):
    """Logits of a second turn with a new image on the cache of a first."""
    out = model.generate(**first, **{CACHE: cache}, **GREEDY)
    ids = torch.cat([out.sequences, more["input_ids"][:, 1:]], 1)
    mask = torch.nn.functional.pad(
        first["attention_mask"], (0, ids.shape[1] - first["input_ids"].shape[1]), value=1
    )
    second = {name: more[name] for name in ("pixel_values", "image_sizes") if name in more}
    out = model.generate(input_ids=ids, attention_mask=mask, **second, **{CACHE: cache_of(out)}, **GREEDY)
    return torch.stack(out.logits, 1)


@pytest.fixture
def turns():
    return (
        tiny_models.llava_inputs((3, "I", 5), (2, "I", 6)),
        tiny_models.llava_inputs((2, "I", 3), (2, "I", 3), seed=9),
    )


@pytest.mark.parametrize("residual", [1, 128])
@pytest.mark.parametrize("method", METHODS)
def test_a_second_turn_equals_that_of_an_unquantised_cache(llava, turns, method, residual):
    with tokenprune.apply(llava, method=method, keep=5) as handle:
        want, kept = two_turns(llava, *turns, DynamicCache()), [i.kept.tolist() for i in handle.last.images]
        got = two_turns(llava, *turns, quantised(llava, residual))
        assert [image.kept.tolist() for image in handle.last.images] == kept
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("residual", [1, 128])
@pytest.mark.parametrize(("name", "method"), [("internvl", "pyramiddrop"), ("mistral3", "sparsevlm")])
def test_other_families(name, method, residual):
    model = tiny_families.model(name)
    first, more = tiny_families.inputs(name, (3, "I", 5)), tiny_families.inputs(name, (2, "I", 3), seed=9)
    with tokenprune.apply(model, method=method, keep=3):
        want = two_turns(model, first, more, DynamicCache())
        got = two_turns(model, first, more, quantised(model, residual))
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_second_turn_runs(llava_sdpa, turns, method, kind):
    with tokenprune.apply(llava_sdpa, method=method, keep=5) as handle:
        logits = two_turns(llava_sdpa, *turns, quantised(llava_sdpa, kind))
        assert [image.n_after for image in handle.last.images] == [5, 5]
    assert logits.isfinite().all()


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_those_that_are_held(llava_sdpa, method, kind):
    """As many as in a cache that is not quantised of the same numbers: fp8 holds one byte of each."""
    inputs = tiny_models.llava_inputs((3, "I", 5))
    with tokenprune.apply(llava_sdpa, method=method, keep=5) as handle:
        llava_sdpa(**inputs, **{CACHE: DynamicCache()})
        plain = handle.last
        llava_sdpa(**inputs, **{CACHE: quantised(llava_sdpa, kind)}, use_cache=True)
        got = handle.last
    assert 0 < got.kv_bytes < got.kv_bytes_unpruned
    if kind != "fp8":  # nothing but the numbers themselves
        assert (got.kv_bytes, got.kv_bytes_unpruned) == (plain.kv_bytes, plain.kv_bytes_unpruned)
    else:  # a quarter of four bytes each; what is not quantised yet is held as it is
        assert plain.kv_bytes / 4 <= got.kv_bytes <= plain.kv_bytes


@pytest.mark.parametrize("kind", KINDS)
def test_qwen_and_beams(kind):
    """Stock Qwen2.5-VL takes no new image on an old cache; a longer answer goes on from it."""
    case = Case("qwen")
    inputs = case.inputs((3, ("I", 4, 6), 5), (2, ("I", 4, 4), 3))[0]
    with tokenprune.apply(case.model, method="fastv", keep=5) as handle:
        want = case.model.generate(**inputs, **{CACHE: DynamicCache()}, **GREEDY)
        got = case.model.generate(**inputs, **{CACHE: quantised(case.model, kind)}, **GREEDY)
        assert handle.last.kv_bytes > 0
    if kind != "fp8":
        assert torch.equal(got.sequences, want.sequences)


@pytest.mark.parametrize("residual", [1, 128])
@pytest.mark.parametrize("method", ["zoo-exact", "pyramiddrop"])
def test_a_mask_over_a_quantised_past_is_honoured(llava_sdpa, method, residual):
    first = tiny_models.llava_inputs((3, "I", 5), (2, "I", 6))
    n, ids = first["input_ids"].shape[1], torch.tensor([[31, 32], [41, 42]])
    mask = torch.cat([first["attention_mask"], torch.ones(2, 2, dtype=torch.long)], 1)
    mask[0, n - 2] = 0

    def logits(cache):
        llava_sdpa(**first, use_cache=True, **{CACHE: cache})
        return llava_sdpa(input_ids=ids, attention_mask=mask, **{CACHE: cache}).logits

    with tokenprune.apply(llava_sdpa, method=method, keep=5):
        want, got = logits(DynamicCache()), logits(quantised(llava_sdpa, residual))
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)
