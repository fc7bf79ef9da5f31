# SPDX-License-Identifier: Apache-2.0
"""A pruned model compiles (with graph breaks where it chooses) and gives the same."""

import pytest
import tiny_models
import torch
from transformers import CompileConfig

import tokenprune


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
def test_a_compiled_forward(fresh_compiler, method):
    model = tiny_models.llava()
    inputs = tiny_models.llava_inputs((3, "I", 5), (2, "I", 4, "I", 3), (6,))
    with tokenprune.apply(model, method=method, keep=5):
        want = model(**inputs).logits
        got = torch.compile(model, backend="eager")(**inputs).logits
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
def test_compiled_decoding_with_a_static_cache(fresh_compiler, method):
    model = tiny_models.llava()
    inputs = tiny_models.llava_inputs((3, "I", 5), (2, "I", 4, "I", 3), (6,))
    compiled = CompileConfig(backend="eager", mode=None, fullgraph=False)
    compiled._compile_all_devices = True
    options = {"max_new_tokens": 5, "do_sample": False}
    with tokenprune.apply(model, method=method, keep=5):
        want = model.generate(**inputs, **options)
        got = model.generate(**inputs, **options, cache_implementation="static", compile_config=compiled)
    assert torch.equal(got, want)


def test_a_compiled_model_is_refused_by_name():
    with pytest.raises(tokenprune.UnsupportedModelError, match="OptimizedModule"):
        tokenprune.apply(torch.compile(tiny_models.llava(), backend="eager"), keep=5)


@pytest.mark.parametrize("how", ["wrapped before", "compiled after"])
@torch.no_grad()
def test_a_wrapper_made_before_apply_and_a_model_compiled_after_it(fresh_compiler, how):
    model, inputs = tiny_models.llava(), tiny_models.llava_inputs((3, "I", 5), (2, "I", 4))
    plain = model(**inputs).logits
    with tokenprune.apply(model, method="zoo-exact", keep=5):
        want = model(**inputs).logits
    call = torch.compile(model, backend="eager") if how == "wrapped before" else model
    torch.testing.assert_close(call(**inputs).logits, plain, atol=1e-4, rtol=1e-4)
    with tokenprune.apply(model, method="zoo-exact", keep=5):
        if how == "compiled after":
            model.compile(backend="eager")
        torch.testing.assert_close(call(**inputs).logits, want, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(call(**inputs).logits, plain, atol=1e-4, rtol=1e-4)
