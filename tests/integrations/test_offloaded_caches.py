# SPDX-License-Identifier: Apache-2.0
"""Offloaded caches: their layers leave the device between calls, and are read through `update` alone.

transformers moves them with streams of an accelerator, for which stand-ins are used here: what was moved away
is hidden until it is fetched, so that code that read it would get NaN.
"""

import contextlib
import functools

import pytest
import tiny_models
import torch
from cache_names import CACHE, cache_of
from transformers import DynamicCache, cache_utils

import tokenprune

pytestmark = pytest.mark.usefixtures("no_gradients")

GREEDY = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}


class Stream(contextlib.nullcontext):
    def wait_stream(self, other):
        pass


class Hidden(cache_utils.DynamicLayer):
    """A layer whose contents are away between `offload` and `prefetch`."""

    moves = 0
    away = None

    def offload(self):
        self.away, self.moves = (self.keys, self.values), self.moves + 1
        self.keys, self.values = (torch.full_like(held, torch.nan) for held in self.away)

    def prefetch(self):
        if self.away is not None:
            (self.keys, self.values), self.away = self.away, None

    def update(self, *args, **kwargs):
        self.prefetch()
        return super().update(*args, **kwargs)


@pytest.fixture
def offloaded(monkeypatch):
    monkeypatch.setattr(torch, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: Stream())

    def make(model, layer=Hidden):
        n = model.config.get_text_config().num_hidden_layers
        return cache_utils.Cache(layers=[layer() for _ in range(n)], offloading=True)

    return make


def two_turns(model, cache, with_image=True):
    first = tiny_models.llava_inputs((3, "I", 5), (2, "I", 6))
    more = tiny_models.llava_inputs((2, "I", 3), (2, "I", 3), seed=9)
    if not with_image:
        more = tiny_models.llava_inputs((4,), (4,), seed=9)
    out = model.generate(**first, **{CACHE: cache}, **GREEDY)
    ids = torch.cat([out.sequences, more["input_ids"][:, 1:]], 1)
    new = ids.shape[1] - first["input_ids"].shape[1]
    mask = torch.nn.functional.pad(first["attention_mask"], (0, new), value=1)
    pixels = {"pixel_values": more["pixel_values"]} if with_image else {}
    second = model.generate(ids, attention_mask=mask, **pixels, **{CACHE: cache_of(out)}, **GREEDY)
    return torch.stack(out.logits + second.logits)


@pytest.mark.parametrize("with_image", [True, False])
@pytest.mark.parametrize("method", ["zoo-exact", "visionzip", "fastv", "sparsevlm", "dart"])
def test_two_turns_equal_those_of_a_cache_on_the_device(tiny, offloaded, method, with_image):
    model, _ = tiny
    cache = offloaded(model)
    with tokenprune.apply(model, method=method, keep=5) as handle:
        want, report = two_turns(model, DynamicCache(), with_image), handle.last
        got = two_turns(model, cache, with_image)
        assert [i.kept.tolist() for i in handle.last.images] == [i.kept.tolist() for i in report.images]
        assert handle.last.kv_bytes == report.kv_bytes
    assert torch.equal(got, want)
    assert all(layer.moves == 8 for layer in cache.layers)


def test_a_method_that_reads_the_past_before_its_layer_runs(tiny, offloaded):
    """It would get what is still on its way; a text turn reads nothing."""
    model, _ = tiny
    with tokenprune.apply(model, method="pyramiddrop", keep=5):
        want = two_turns(model, DynamicCache(), False)
        assert torch.equal(two_turns(model, offloaded(model), False), want)
        with pytest.raises(
            tokenprune.UnsupportedCallError, match="offloaded cache are not on the device yet"
        ):
            two_turns(model, offloaded(model))
        assert torch.equal(two_turns(model, DynamicCache(), False), want)


def test_a_cache_is_as_it_was_after_a_refused_turn(tiny, offloaded):
    """The turn is refused before any layer has run."""
    model, _ = tiny
    first, more = tiny_models.llava_inputs((3, "I", 5)), tiny_models.llava_inputs((2, "I", 3), seed=9)

    def prompt(out, ids):
        ids = torch.cat([out.sequences, ids[:, 1:]], 1)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), CACHE: cache_of(out)}

    text = tiny_models.llava_inputs((4,), seed=9)["input_ids"]
    with tokenprune.apply(model, method="pyramiddrop", keep=5):
        out = model.generate(**first, **{CACHE: DynamicCache()}, **GREEDY)
        want = model.generate(**prompt(out, text), **GREEDY)
        out = model.generate(**first, **{CACHE: offloaded(model)}, **GREEDY)
        with pytest.raises(tokenprune.UnsupportedCallError, match="offloaded cache are not on the device"):
            model.generate(**prompt(out, more["input_ids"]), pixel_values=more["pixel_values"], **GREEDY)
        got = model.generate(**prompt(out, text), **GREEDY)
    assert torch.equal(torch.stack(got.logits), torch.stack(want.logits))


@pytest.mark.parametrize("pruned", [True, False])
@pytest.mark.parametrize("kind", ["offloaded", "offloaded_static"])
def test_without_an_accelerator_transformers_itself_refuses(tiny, kind, pruned):
    if torch.cuda.is_available():
        pytest.skip("an accelerator is at hand")
    model, _ = tiny
    inputs = tiny_models.llava_inputs((3, "I", 5))
    call = functools.partial(model.generate, **inputs, max_new_tokens=2, cache_implementation=kind)
    with tokenprune.apply(model, keep=5) if pruned else contextlib.nullcontext():
        with pytest.raises((RuntimeError, AssertionError)) as raised:
            call()
    assert not isinstance(raised.value, tokenprune.TokenPruneError)
