# SPDX-License-Identifier: Apache-2.0
"""Promise 1: keep >= N changes nothing, remove() leaves nothing, a pruned cache dies with its handle."""

import pytest
import torch
from cache_names import CACHE, cache_of
from tiny_models import IMAGE, llava_inputs
from transformers import DynamicCache

import tokenprune

METHODS = ["zoo-exact", "zoo-prune", "divprune", "random", "stride"]


def everything(model, inputs):
    """Logits, generated ids and their logits."""
    out = model.generate(
        **inputs, max_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    return [model(**inputs).logits, out.sequences, torch.stack(out.logits)]


def trace(model):
    """Whatever a pruning could leave behind."""
    hooks = [
        (
            name,
            len(m._forward_hooks),
            len(m._forward_pre_hooks),
            sorted(m.__dict__),
            type(m),
            m.__dict__.get("config"),
        )
        for name, m in model.named_modules()
    ]
    return hooks, model.config.to_dict(), model.generation_config.to_dict()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [{"keep": 16}, {"keep": 1000}, {"keep_ratio": 1.0}])
def test_keeping_everything_is_bit_identical(llava, inputs, method, budget):
    before = everything(llava, inputs)
    with tokenprune.apply(llava, method=method, **budget) as handle:
        after = everything(llava, inputs)
        assert [(i.n_before, i.n_after) for i in handle.last.images] == [(16, 16)] * 3
        assert handle.last.images[0].note
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_remove_restores_bit_for_bit_and_leaves_no_trace(llava, inputs, method):
    before, untouched = everything(llava, inputs), trace(llava)
    handle = tokenprune.apply(llava, method=method, keep=5)
    assert handle.is_active and tokenprune.is_pruned(llava)
    assert not torch.equal(llava(**inputs).logits, before[0])
    handle.remove()
    handle.remove()
    assert not handle.is_active and not tokenprune.is_pruned(llava)
    assert all(torch.equal(a, b) for a, b in zip(before, everything(llava, inputs), strict=True))
    assert trace(llava) == untouched


def test_the_context_manager_removes_after_an_error(llava_sdpa, inputs):
    untouched = trace(llava_sdpa)
    with pytest.raises(ZeroDivisionError), tokenprune.apply(llava_sdpa, keep=5):
        llava_sdpa(**inputs)
        raise ZeroDivisionError
    assert trace(llava_sdpa) == untouched


def test_a_failed_call_leaves_the_next_one_right(llava_sdpa, inputs):
    with tokenprune.apply(llava_sdpa, keep=5):
        right = llava_sdpa(**inputs).logits
        with pytest.raises((ValueError, RuntimeError)):
            llava_sdpa(**{**inputs, "pixel_values": inputs["pixel_values"][:1]})
        text = llava_inputs((4,))
        assert torch.isfinite(llava_sdpa(**text).logits).all()
        assert torch.equal(llava_sdpa(**inputs).logits, right)


def test_a_second_apply_is_refused_and_the_first_stays(llava_sdpa, inputs):
    with tokenprune.apply(llava_sdpa, method="stride", keep=5):
        pruned = llava_sdpa(**inputs).logits
        with pytest.raises(tokenprune.AlreadyPrunedError, match="remove"):
            tokenprune.apply(llava_sdpa, keep=3)
        assert torch.equal(llava_sdpa(**inputs).logits, pruned)


def test_a_pruned_cache_raises_once_its_handle_is_gone(llava_sdpa):
    inputs = llava_inputs((3, "I", 5))
    with tokenprune.apply(llava_sdpa, keep=5):
        cache = cache_of(llava_sdpa(**inputs, use_cache=True))
    token = torch.tensor([[7]])
    with pytest.raises(tokenprune.StaleCacheError, match="new cache"):
        llava_sdpa(input_ids=token, **{CACHE: cache})
    with tokenprune.apply(llava_sdpa, keep=5), pytest.raises(tokenprune.StaleCacheError):
        llava_sdpa(input_ids=token, **{CACHE: cache})


def test_an_unpruned_cache_goes_on_under_a_handle(llava_sdpa):
    inputs = llava_inputs((3, "I", 5))
    cache = cache_of(llava_sdpa(**inputs, use_cache=True))
    token = torch.tensor([[7]])
    want = llava_sdpa(input_ids=token, **{CACHE: cache}).logits
    again = cache_of(llava_sdpa(**inputs, use_cache=True, **{CACHE: DynamicCache()}))
    with tokenprune.apply(llava_sdpa, keep=5):
        assert torch.equal(llava_sdpa(input_ids=token, **{CACHE: again}).logits, want)


def test_images_below_min_tokens_are_left_alone(llava_sdpa, inputs):
    before = everything(llava_sdpa, inputs)
    with tokenprune.apply(llava_sdpa, keep=5, min_tokens=17) as handle:
        after = everything(llava_sdpa, inputs)
        assert "17" in handle.last.images[0].note
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_model_is_untouched_when_apply_refuses(llava_sdpa):
    untouched = trace(llava_sdpa)
    for wrong in ({"keep": 0}, {"keep": 3, "method": "nope"}, {"keep": 3, "stage": "vision"}, {}):
        with pytest.raises(tokenprune.TokenPruneError):
            tokenprune.apply(llava_sdpa, **wrong)
    assert trace(llava_sdpa) == untouched
    assert IMAGE == llava_sdpa.config.image_token_id
