# SPDX-License-Identifier: Apache-2.0
"""Assisted decoding: a pruned model's tokens do not depend on who drafts them, nor on what is drafted."""

import contextlib

import pytest
import tiny_families
import tiny_models
import torch
from cache_names import CACHE, cache_of

import tokenprune

pytestmark = pytest.mark.usefixtures("no_gradients")

METHODS = ["zoo-exact", "visionzip", "fastv", "pyramiddrop", "sparsevlm", "dart"]
LATE = ["zoo-exact", "fastv", "pyramiddrop"]
GREEDY = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
CLOSE = {"atol": 1e-4, "rtol": 1e-3}


@pytest.fixture
def draft():
    """A model that drafts the tiny LLaVA's own tokens now and then."""
    model = tiny_models.llava()
    model.lm_head.weight += 0.05 * torch.randn(model.lm_head.weight.shape)
    return model


@pytest.fixture
def inputs():
    """A prompt whose end stands in it twice."""
    inputs = tiny_models.llava_inputs((3, "I", 5))
    inputs["input_ids"][0, -5:] = torch.tensor([7, 8, 9, 7, 8])
    return inputs


@contextlib.contextmanager
def calls_of(model):
    """The number of tokens in each call of the inner model."""
    lengths = []
    hook = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        yield lengths
    finally:
        hook.remove()


def kept_by(handle):
    return [image.kept.tolist() for image in handle.last.images]


def same(got, want):
    assert torch.equal(got.sequences, want.sequences)
    torch.testing.assert_close(torch.stack(got.logits), torch.stack(want.logits), **CLOSE)


@pytest.mark.parametrize("drafting", ["unpruned", "pruned"])
@pytest.mark.parametrize("method", METHODS)
def test_a_draft_model(tiny, draft, inputs, method, drafting):
    model, _ = tiny
    pruned = (
        tokenprune.apply(draft, method=method, keep=3) if drafting == "pruned" else contextlib.nullcontext()
    )
    with tokenprune.apply(model, method=method, keep=6) as handle, pruned:
        want, kept = (
            model.generate(**inputs, max_new_tokens=12, **GREEDY),
            handle.last.images[0].kept.tolist(),
        )
        same(model.generate(**inputs, max_new_tokens=12, **GREEDY, assistant_model=draft), want)
        assert handle.last.images[0].kept.tolist() == kept


@pytest.mark.parametrize("method", LATE)
def test_a_pruned_draft_model_of_an_unpruned_one(tiny, draft, inputs, method):
    model, _ = tiny
    want = model.generate(**inputs, max_new_tokens=12, **GREEDY)
    with tokenprune.apply(draft, method=method, keep=3):
        same(model.generate(**inputs, max_new_tokens=12, **GREEDY, assistant_model=draft), want)


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
def test_prompts_with_several_images(tiny, method):
    """A budget may be impossible for their tokens taken together, and is made for each image."""
    model, _ = tiny
    inputs = tiny_models.llava_inputs((3, "I", 2, "I", 2, "I", 2, "I", 5))
    inputs["input_ids"][0, -5:] = torch.tensor([7, 8, 9, 7, 8])
    how = {"layer": 2, "budget": "average", "keep": 10} if method == "fastv" else {"keep": 10}
    with tokenprune.apply(model, method=method, **how) as handle:
        want, kept = model.generate(**inputs, max_new_tokens=12, **GREEDY), kept_by(handle)
        assert len(kept) == 4
        same(model.generate(**inputs, max_new_tokens=12, **GREEDY, prompt_lookup_num_tokens=3), want)
        assert kept_by(handle) == kept


def test_a_cut_late_in_a_tower_that_is_deeper_than_the_decoder():
    model = tiny_models.llava(tower_layers=8)
    inputs = tiny_models.llava_inputs((3, "I", 5))
    inputs["input_ids"][0, -5:] = torch.tensor([7, 8, 9, 7, 8])
    first = tokenprune.method("divprune", stage="vision", layer=5)
    assert len(model.model.language_model.layers) < 5
    with tokenprune.apply(model, method=[first, "fastv"], keep=[12, 6]) as handle:
        want, kept = model.generate(**inputs, max_new_tokens=12, **GREEDY), kept_by(handle)
        same(model.generate(**inputs, max_new_tokens=12, **GREEDY, prompt_lookup_num_tokens=3), want)
        assert kept_by(handle) == kept


@pytest.mark.parametrize("method", LATE)
def test_drafts_save_calls(tiny, inputs, method):
    """Nine tokens in three calls. Methods that read the text get the prompt alone."""
    model, _ = tiny
    only_sevens = {"suppress_tokens": [token for token in range(99) if token != 7], "max_new_tokens": 9}
    inputs["input_ids"][0, -5:] = 7
    n = inputs["input_ids"].shape[1]
    with tokenprune.apply(model, method=method, keep=6):
        want = model.generate(**inputs, **only_sevens, **GREEDY)
        with calls_of(model) as lengths:
            same(model.generate(**inputs, **only_sevens, **GREEDY, prompt_lookup_num_tokens=3), want)
    assert lengths == ([n + 3, 4, 1] if method == "zoo-exact" else [n, 4, 4])


@pytest.mark.parametrize("method", LATE)
@pytest.mark.parametrize("picture", [True, False])
def test_calls_are_those_of_the_unpruned_model_where_nothing_is_dropped(tiny, inputs, method, picture):
    model, _ = tiny
    if not picture:
        inputs = {key: inputs[key][:, -6:] for key in ("input_ids", "attention_mask")}
    options = {"max_new_tokens": 8, **GREEDY, "prompt_lookup_num_tokens": 3}
    with calls_of(model) as want_lengths:
        want = model.generate(**inputs, **options)
    with tokenprune.apply(model, method=method, keep=16), calls_of(model) as lengths:
        got = model.generate(**inputs, **options)
    assert lengths == want_lengths and lengths[0] > inputs["input_ids"].shape[1]
    assert torch.equal(torch.stack(got.logits), torch.stack(want.logits))


@pytest.mark.parametrize("method", LATE)
def test_sampling_of_the_likeliest_token_alone_is_greedy(tiny, draft, inputs, method):
    model, _ = tiny
    with tokenprune.apply(model, method=method, keep=6):
        want = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        options = {"max_new_tokens": 12, "do_sample": True, "top_k": 1}
        for more in ({"assistant_model": draft}, {"prompt_lookup_num_tokens": 3}):
            assert torch.equal(model.generate(**inputs, **options, **more), want)


@pytest.mark.parametrize("method", LATE)
def test_a_conversation_goes_on_from_the_cache_of_a_drafted_answer(tiny, draft, inputs, method):
    model, _ = tiny
    first = {"max_new_tokens": 5, **GREEDY}

    def second(out, **more):
        ids = torch.cat([out.sequences, torch.tensor([[31, 7, 8, 9, 7, 8]])], 1)
        cache = {CACHE: cache_of(out), "attention_mask": torch.ones_like(ids)}
        return model.generate(ids, **cache, max_new_tokens=8, **GREEDY, **more)

    with tokenprune.apply(model, method=method, keep=6):
        want = second(model.generate(**inputs, **first))
        for more in ({"assistant_model": draft}, {"prompt_lookup_num_tokens": 3}):
            out = model.generate(**inputs, **first, **more)
            with pytest.raises(tokenprune.UnsupportedCallError, match="without drafts for this turn"):
                second(out, **more)
            same(second(out), want)


def test_stock_code_reads_a_prompt_twice_on_a_cache_that_is_not_empty(tiny):
    """Unpruned, with text alone: why the test above expects an error."""
    model, _ = tiny
    first = model.generate(**tiny_models.llava_inputs((9,)), max_new_tokens=2, **GREEDY)
    ids = torch.cat([first.sequences, torch.tensor([[31, 7, 8]])], 1)
    with calls_of(model) as lengths:
        options = {CACHE: cache_of(first), "attention_mask": torch.ones_like(ids), "do_sample": False}
        model.generate(ids, **options, max_new_tokens=2, prompt_lookup_num_tokens=3)
    assert lengths[0] >= ids.shape[1]  # instead of 4: the last of the first answer, and what is new


@pytest.mark.parametrize("method", LATE)
def test_the_embedded_model(embedded, scenes, method):
    model, processor = embedded
    with tokenprune.apply(model, method=method, keep=18):
        for picture, question in zip(*scenes, strict=True):
            text = f"USER: <image> {question} ASSISTANT:"
            one = processor(images=picture, text=text, return_tensors="pt")
            same(model.generate(**one, **GREEDY, prompt_lookup_num_tokens=2), model.generate(**one, **GREEDY))


@pytest.mark.parametrize("method", LATE)
@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl"])
def test_other_families(name, method):
    model = tiny_models.qwen() if name == "qwen2_5_vl" else tiny_families.model(name)
    if name == "qwen2_5_vl":
        inputs = tiny_models.qwen_inputs((3, ("I", 4, 6), 6))
    else:
        inputs = tiny_families.inputs(name, (3, "I", 6))
    inputs["input_ids"][0, -5:] = torch.tensor([7, 8, 9, 7, 8])
    with tokenprune.apply(model, method=method, keep=5):
        want = model.generate(**inputs, max_new_tokens=8, **GREEDY)
        same(model.generate(**inputs, max_new_tokens=8, **GREEDY, prompt_lookup_num_tokens=3), want)


@pytest.mark.parametrize("method", LATE)
def test_a_pruned_model_is_not_its_own_draft_model(tiny, inputs, method):
    """transformers passes no pixels to a draft model: stock code drafts without the picture."""
    model, _ = tiny
    text = tiny_models.llava_inputs((6,))
    with tokenprune.apply(model, method=method, keep=6):
        with pytest.raises(tokenprune.UnsupportedCallError, match="cannot be its own assistant_model"):
            model.generate(**inputs, max_new_tokens=3, do_sample=False, assistant_model=model)
        want = model.generate(**text, max_new_tokens=6, **GREEDY)
        same(model.generate(**text, max_new_tokens=6, **GREEDY, assistant_model=model), want)
        assert model.generate(**inputs, max_new_tokens=3, do_sample=False).shape[1] == 28


@pytest.mark.parametrize("method", LATE)
def test_nothing_of_it_stays_after_remove(tiny, inputs, method):
    model, _ = tiny
    before = set(vars(model))
    with tokenprune.apply(model, method=method, keep=6):
        model.generate(**inputs, max_new_tokens=3, do_sample=False, prompt_lookup_num_tokens=3)
    assert set(vars(model)) == before
