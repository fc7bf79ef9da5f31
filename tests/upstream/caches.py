# SPDX-License-Identifier: Apache-2.0
"""Caches that are the caller's, preallocated, compiled or gone on with."""

import copy

import torch
from checks import CLOSE, LOGITS, N_NEW, Checks, cache_in, stacked
from families import HEADS, KV_HEADS, PIXELS, SPECIAL, WIDTH
from tokenprune_cli.cache_name import cache_name
from transformers import CompileConfig, DynamicCache, StaticCache

STATIC = {"cache_implementation": "static"}
GREEDY = {"max_new_tokens": N_NEW, "do_sample": False, "suppress_tokens": list(SPECIAL)}


class CacheChecks(Checks):
    """A cache says what was seen, not what is stored, and goes on from there."""

    def plain_cache(self, model):
        return DynamicCache(config=model.config.get_text_config())

    def test_generate_goes_on_from_a_cache(self):
        model, inputs = self.new_model(), self.batch()
        whole = self.answer(model, inputs, return_dict_in_generate=True)
        part = self.answer(model, inputs, max_new_tokens=N_NEW - 1, return_dict_in_generate=True)
        given = {name: value for name, value in inputs.items() if name not in PIXELS}
        given = self.padded(given, right=N_NEW - 1)
        given |= {"input_ids": part.sequences, "attention_mask": torch.ones_like(part.sequences)}
        given[cache_name(model)] = copy.deepcopy(cache_in(part))
        out = model.generate(**given, **{**GREEDY, "max_new_tokens": 1}, return_dict_in_generate=True)
        assert torch.equal(out.sequences, whole.sequences)
        for one, other in zip(cache_in(out).layers, cache_in(whole).layers, strict=True):
            torch.testing.assert_close(one.keys, other.keys, **CLOSE)
            torch.testing.assert_close(one.values, other.values, **CLOSE)

    def test_generate_text_behind_a_cache_at_once_and_token_by_token(self):
        model, inputs = self.new_model(), self.batch()
        n, more, cache = inputs["input_ids"].shape[1], self.model_tester.words(2, 3), self.plain_cache(model)
        name = cache_name(model)

        def mask(length):  # the Qwens make positions of it, and want none behind a cache
            is_qwen = "mm_token_type_ids" in inputs
            return {} if is_qwen else {"attention_mask": torch.ones(2, length, dtype=torch.long)}

        with torch.no_grad():
            model(**inputs, **{name: cache}, use_cache=True)
            at_once = model(input_ids=more, **{name: cache}, **mask(n + 3)).logits
            assert at_once.shape[:2] == (2, 3)
            assert int(cache.get_seq_length()) == n + 3
            filled = copy.deepcopy(cache)
            cache.crop(-3)
            assert int(cache.get_seq_length()) == n
            for i in range(3):
                step = model(input_ids=more[:, i : i + 1], **{name: cache}, **mask(n + i + 1)).logits
                torch.testing.assert_close(step[:, 0], at_once[:, i], **CLOSE)
        for one, other in zip(cache.layers, filled.layers, strict=True):
            torch.testing.assert_close(one.keys, other.keys, **CLOSE)

    def check_given(self, make):
        """The caller's cache is filled in place, comes back, and can be emptied and used again."""
        model, inputs = self.new_model(), self.batch()
        want, cache = self.answer(model, inputs), make(model.config.get_text_config())
        for _ in range(2):
            out = model.generate(
                **inputs, **{cache_name(model): cache}, **GREEDY, return_dict_in_generate=True
            )
            assert cache_in(out) is cache
            assert torch.equal(out.sequences, want)
            assert int(cache.get_seq_length()) == want.shape[1] - 1
            cache.reset()
            assert int(cache.get_seq_length()) == 0
            if not isinstance(cache, StaticCache):
                break  # a dynamic layer that was reset keeps zeros, in stock too

    def test_generate_into_a_dynamic_cache_of_the_callers(self):
        self.check_given(lambda config: DynamicCache(config=config))

    def test_generate_into_a_static_cache_of_the_callers(self):
        self.check_given(
            lambda config: StaticCache(config=config, max_cache_len=self.model_tester.seq_length + 9)
        )

    def test_generate_static_cache(self):
        model, inputs = self.new_model(), self.padded(self.batch(images=2), left=3)
        dynamic, static = (self.answer(model, inputs, **LOGITS, **more) for more in ({}, STATIC))
        shape = (2, KV_HEADS, inputs["input_ids"].shape[1] + N_NEW - 1, WIDTH // HEADS)
        assert isinstance(cache_in(static), StaticCache)
        assert [tuple(layer.keys.shape) for layer in cache_in(static).layers] == [shape, shape]
        torch.testing.assert_close(stacked(static), stacked(dynamic), **CLOSE)

    def test_generate_static_cache_with_beams(self):
        model, inputs = self.new_model(), self.padded(self.batch(images=2), left=3)
        assert torch.equal(*(self.answer(model, inputs, num_beams=2, **more) for more in ({}, STATIC)))

    def test_generate_static_cache_again(self):
        """A second prompt finds what the first left preallocated."""
        model = self.new_model()
        for images in (2, 1, 2):
            inputs = self.batch(images=images, seed=images)
            assert torch.equal(*(self.answer(model, inputs, **more) for more in ({}, STATIC)))

    def compiled(self, fullgraph=False):
        """Let `generate` compile its steps, on a CPU too."""
        torch.compiler.reset()  # each test compiles a model of its own, which torch counts as one more try
        config = CompileConfig(backend="eager", mode=None, fullgraph=fullgraph)
        config._compile_all_devices = True
        return {"compile_config": config, **STATIC}

    def check_compiled(self, fullgraph):
        model, inputs = self.new_model(), self.batch()
        want = self.answer(model, inputs, **STATIC)
        got = model.generate(**inputs, **GREEDY, **self.compiled(fullgraph))
        assert torch.equal(want, got)

    def test_generate_compiled(self):
        self.check_compiled(fullgraph=False)

    def test_generate_compiled_as_one_graph(self):
        self.check_compiled(fullgraph=True)

    def test_generate_compiled_returns_everything(self):
        model, inputs = self.new_model("eager"), self.batch()
        given = {**LOGITS, "output_hidden_states": True}
        want = self.answer(model, inputs, **given, **STATIC)
        got = model.generate(**inputs, **GREEDY, **given, **self.compiled())
        assert torch.equal(want.sequences, got.sequences)
        torch.testing.assert_close(stacked(want), stacked(got), **CLOSE)
        torch.testing.assert_close(want.hidden_states, got.hidden_states, **CLOSE)

    def test_generate_compiled_whole_model(self):
        model, inputs = self.new_model(), self.batch()
        with torch.no_grad():
            want = model(**inputs).logits
            torch.compiler.reset()
            model.compile(backend="eager")
            torch.testing.assert_close(model(**inputs).logits, want, **CLOSE)
