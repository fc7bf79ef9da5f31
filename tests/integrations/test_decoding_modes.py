# SPDX-License-Identifier: Apache-2.0
"""Ways to pick the next token: guidance, loops of one's own, and those that transformers moved away."""

import pytest
import tiny_models
import torch
from cache_names import CACHE, cache_of
from transformers import GenerationMixin

import tokenprune

pytestmark = pytest.mark.usefixtures("no_gradients")

METHODS = ["zoo-exact", "fastv"]
N = 6
GREEDY = {"max_new_tokens": N, "do_sample": False, "eos_token_id": None}


@pytest.fixture
def inputs():
    return tiny_models.llava_inputs((3, "I", 5))


def next_logits(model, ids, cache):
    """Logits (B, V) after more tokens (B, n) on a cache."""
    return model(input_ids=ids, use_cache=True, **{CACHE: cache}).logits[:, -1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("negative", [None, [[1, 5, 6, 7]]])
def test_classifier_free_guidance_equals_two_caches_side_by_side(tiny, inputs, method, negative):
    model, _ = tiny
    scale, more = 1.5, {}
    if negative is not None:
        more = {"negative_prompt_ids": torch.tensor(negative)}
    with tokenprune.apply(model, method=method, keep=5):
        got = model.generate(**inputs, **GREEDY, guidance_scale=scale, **more)
        out = model(**inputs, use_cache=True)
        with_image, cache = out.logits[:, -1], cache_of(out)
        ids = inputs["input_ids"][:, -1:] if negative is None else more["negative_prompt_ids"]
        out = model(input_ids=ids, use_cache=True)
        without, other = out.logits[:, -1], cache_of(out)
        tokens = []
        for _ in range(N):
            a, b = with_image.log_softmax(-1), without.log_softmax(-1)
            tokens.append((scale * (a - b) + b).argmax(-1, keepdim=True))
            with_image, without = (next_logits(model, tokens[-1], kv) for kv in (cache, other))
    assert torch.equal(got[:, inputs["input_ids"].shape[1] :], torch.cat(tokens, 1))


def contrastive(model, input_ids, logits_processor, stopping_criteria, generation_config, k=3, **kwargs):
    """Of the k likeliest tokens, the one after which the model is surest: k rows of a repeated cache."""
    out = model(input_ids=input_ids, **{key: kwargs[key] for key in kwargs if key in TAKEN}, use_cache=True)
    logits, cache = out.logits[:, -1], cache_of(out)
    while True:
        candidates = logits.topk(k).indices.view(k, 1)
        cache.batch_repeat_interleave(k)
        ahead = next_logits(model, candidates, cache)
        best = ahead.softmax(-1).amax(-1).argmax()
        cache.batch_select_indices(best.view(1))
        input_ids = torch.cat([input_ids, candidates[best].view(1, 1)], 1)
        logits = ahead[best].view(1, -1)
        if stopping_criteria(input_ids, None).all():
            return input_ids


TAKEN = ("attention_mask", "pixel_values", "mm_encoder_outputs")


def test_a_loop_of_ones_own_that_repeats_the_cache_equals_one_without_a_cache(tiny, inputs):
    model, _ = tiny
    with tokenprune.apply(model, method="zoo-exact", keep=5) as handle:
        got = model.generate(**inputs, **GREEDY, custom_generate=contrastive)
        assert handle.last.n_after == 5
        ids, pixels = inputs["input_ids"], inputs["pixel_values"]
        logits = model(input_ids=ids, pixel_values=pixels).logits[:, -1]
        for _ in range(N):
            tried = [torch.cat([ids, token.view(1, 1)], 1) for token in logits.topk(3).indices[0]]
            ahead = [model(input_ids=one, pixel_values=pixels).logits[:, -1] for one in tried]
            best = max(range(3), key=lambda i: float(ahead[i].softmax(-1).amax()))
            ids, logits = tried[best], ahead[best]
    assert torch.equal(got, ids)


@pytest.mark.parametrize("method", METHODS)
def test_a_loop_that_contrasts_layers_sees_the_last_token_of_each(tiny, inputs, method):
    """As decoding by contrasting layers does: the head on an early layer's last row."""
    model, _ = tiny
    head = model.get_output_embeddings()
    seen = []

    def layers(model, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs):
        taken = {key: kwargs[key] for key in kwargs if key in TAKEN}
        out = model(input_ids=input_ids, **taken, use_cache=True, output_hidden_states=True)
        while True:
            early, late = (head(out.hidden_states[i][:, -1]).log_softmax(-1) for i in (2, -1))
            seen.append((late - early).argmax(-1, keepdim=True))
            input_ids = torch.cat([input_ids, seen[-1]], 1)
            if stopping_criteria(input_ids, None).all():
                return input_ids
            cache = {CACHE: cache_of(out)}
            out = model(input_ids=seen[-1], **cache, use_cache=True, output_hidden_states=True)

    with tokenprune.apply(model, method=method, keep=5):
        got = model.generate(**inputs, **GREEDY, custom_generate=layers)[:, -N:]
        early, late = [], []
        hooks = [
            model.model.language_model.layers[1].register_forward_hook(lambda *call: early.append(call[-1])),
            model.model.language_model.norm.register_forward_hook(lambda *call: late.append(call[-1])),
        ]
        cache, call = None, {key: inputs[key] for key in ("input_ids", "pixel_values", "attention_mask")}
        tokens = []
        for _ in range(N):
            out = model(**call, use_cache=True, **({} if cache is None else {CACHE: cache}))
            one, two = (head(rows[-1][:, -1]).log_softmax(-1) for rows in (early, late))
            tokens.append((two - one).argmax(-1, keepdim=True))
            cache, call = cache_of(out), {"input_ids": tokens[-1]}
        for hook in hooks:
            hook.remove()
    assert torch.equal(got, torch.cat(tokens, 1))


@pytest.mark.parametrize("method", METHODS)
def test_stock_code_called_by_a_loop_of_ones_own(tiny, inputs, method):
    model, _ = tiny

    def sample(model, *args, **kwargs):
        return GenerationMixin._sample(model, *args, **kwargs)

    with tokenprune.apply(model, method=method, keep=5):
        want = model.generate(**inputs, **GREEDY)
        assert torch.equal(model.generate(**inputs, **GREEDY, custom_generate=sample), want)


@pytest.mark.parametrize("method", METHODS)
def test_several_returned_sequences_are_each_that_of_one(tiny, inputs, method):
    model, _ = tiny
    with tokenprune.apply(model, method=method, keep=5):
        want = model.generate(**inputs, **GREEDY)
        options = {**GREEDY, "do_sample": True, "top_k": 1, "num_return_sequences": 3}
        got = model.generate(**inputs, **options)
    assert torch.equal(got, want.expand(3, -1))


MOVED = {
    "contrastive search": {"penalty_alpha": 0.6, "top_k": 4},
    "DoLa": {"dola_layers": "low"},
    "diverse beams": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "constrained beams": {"num_beams": 2, "force_words_ids": [[5]]},
}


@pytest.mark.parametrize("name", MOVED)
def test_what_transformers_moved_to_the_hub_is_refused_by_transformers(tiny, inputs, name):
    model, _ = tiny
    with tokenprune.apply(model, keep=5) as handle:
        with pytest.raises(ValueError, match="requires `trust_remote_code=True`"):
            model.generate(**inputs, **GREEDY, **MOVED[name])
        assert handle.last is None
        assert model.generate(**inputs, **GREEDY).shape[1] == inputs["input_ids"].shape[1] + N
