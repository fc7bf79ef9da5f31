# SPDX-License-Identifier: Apache-2.0
"""`generate(cache_implementation=...)`: the cache that transformers makes is as good as the default one."""

import pytest
import tiny_families
import tiny_models
import torch
from cache_names import CACHE
from transformers import QuantizedCache

import tokenprune

pytestmark = pytest.mark.usefixtures("no_gradients")

GREEDY = {"max_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
CLOSE = {"atol": 1e-4, "rtol": 1e-3}
# layers with full attention, with sliding windows beside it, with states beside it
FAMILIES = {"llava": ["zoo-exact", "fastv", "pyramiddrop"], "gemma3": ["divprune"], "qwen3_5": ["divprune"]}
CASES = [(name, method) for name, methods in FAMILIES.items() for method in methods]


def case(name):
    if name == "llava":
        return tiny_models.llava(), tiny_models.llava_inputs((3, "I", 5), (2, "I", 4, "I", 3), (6,))
    return tiny_families.model(name), tiny_families.inputs(name, (3, "I", 5), (2, "I", 6))


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize(("name", "method"), CASES)
def test_equals_the_default(name, method, kind):
    model, inputs = case(name)
    with tokenprune.apply(model, method=method, keep=5) as handle:
        want, n_kept = model.generate(**inputs, **GREEDY), handle.last.n_after
        got = model.generate(**inputs, **GREEDY, cache_implementation=kind)
        assert handle.last.n_after == n_kept
    assert torch.equal(got.sequences, want.sequences)
    torch.testing.assert_close(torch.stack(got.logits), torch.stack(want.logits), **CLOSE)


@pytest.mark.parametrize(("name", "method"), [case for case in CASES if case[0] != "qwen3_5"])
def test_a_static_cache_that_is_longer_than_the_call_needs(name, method):
    model, inputs = case(name)
    with tokenprune.apply(model, method=method, keep=5):
        want = model.generate(**inputs, **GREEDY)
        got = model.generate(**inputs, **GREEDY, cache_implementation="static", max_cache_len=96)
    assert torch.equal(got.sequences, want.sequences)


@pytest.mark.parametrize("method", FAMILIES["llava"])
def test_a_quantised_cache_equals_one_made_by_hand(method):
    """The call that reads the prompt attends to its keys before they are quantised."""
    model, inputs = case("llava")
    with tokenprune.apply(model, method=method, keep=5) as handle:
        plain, kept = model.generate(**inputs, **GREEDY), [i.kept.tolist() for i in handle.last.images]
        own = QuantizedCache("fp8", model.config.get_text_config())
        want = model.generate(**inputs, **GREEDY, **{CACHE: own})
        options = {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}
        got = model.generate(**inputs, **GREEDY, **options)
        assert [image.kept.tolist() for image in handle.last.images] == kept
    assert torch.equal(got.sequences, want.sequences)
    assert torch.equal(torch.stack(got.logits), torch.stack(want.logits))
    torch.testing.assert_close(got.logits[0], plain.logits[0], **CLOSE)
