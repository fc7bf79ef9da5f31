# SPDX-License-Identifier: Apache-2.0
"""`generate_batch` keeps blocks of memory, not a cache: text goes through it, images are refused."""

import pytest
import tiny_models
import torch
from cache_names import CACHE

import tokenprune

METHODS = [{"method": "divprune"}, {"method": "fastv", "layer": 1}]


class Blocks:
    """A cache without layers."""


def answers(model, prompts):
    configuration = pytest.importorskip("transformers.generation.configuration_utils")
    small = configuration.ContinuousBatchingConfig(num_blocks=8, max_batch_tokens=64)
    out = model.generate_batch(prompts, max_new_tokens=3, continuous_batching_config=small)
    return sorted(one.generated_tokens for one in out.values())


@pytest.mark.parametrize("how", METHODS, ids=lambda how: how["method"])
def test_text_is_answered_as_by_the_unpruned_model(how):
    model = tiny_models.llava()
    model.generation_config.do_sample = False
    model.generation_config.eos_token_id = None
    prompts = [tiny_models.llava_inputs((n,))["input_ids"][0].tolist() for n in (5, 8)]
    before = answers(model, prompts)
    assert [len(tokens) for tokens in before] == [3, 3]
    with tokenprune.apply(model, keep=5, **how):
        assert answers(model, prompts) == before


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("how", METHODS, ids=lambda how: how["method"])
def test_a_manager_that_takes_requests_one_by_one(how, attention):
    """Its attention is a paged one of its own, and the model's again afterwards."""
    configuration = pytest.importorskip("transformers.generation.configuration_utils")
    small = configuration.ContinuousBatchingConfig(num_blocks=8, max_batch_tokens=64)
    model = tiny_models.llava(attention)
    model.generation_config.do_sample = False
    model.generation_config.eos_token_id = None
    inputs = tiny_models.llava_inputs((3, "I", 5))
    prompts = [tiny_models.llava_inputs((n,))["input_ids"] for n in (5, 8)]
    with tokenprune.apply(model, keep=5, **how):
        want = [model.generate(ids, max_new_tokens=3)[0, ids.shape[1] :].tolist() for ids in prompts]
        picture = model.generate(**inputs, max_new_tokens=3)
        manager = model.init_continuous_batching(continuous_batching_config=small)
        manager.start()
        try:
            names = [manager.add_request(ids[0].tolist(), max_new_tokens=3) for ids in prompts]
            got = {}
            while len(got) < len(names):
                out = manager.get_result(timeout=60)
                assert out is not None
                if out.is_finished():
                    got[out.request_id] = out.generated_tokens
        finally:
            manager.stop(block=True)
        assert [got[name] for name in names] == want
        assert torch.equal(model.generate(**inputs, max_new_tokens=3), picture)


@pytest.mark.parametrize("how", METHODS, ids=lambda how: how["method"])
def test_images_are_refused_which_transformers_ignores(llava_sdpa, how):
    """Stock code answers without them, and reads their placeholders as text."""
    inputs, text = tiny_models.llava_inputs((3, "I", 5)), tiny_models.llava_inputs((4,))
    ids, pixels = inputs["input_ids"].tolist(), inputs["pixel_values"]
    options = {"cache_implementation": "paged", "max_new_tokens": 3}
    calls = (
        lambda: llava_sdpa.generate_batch(ids),
        lambda: llava_sdpa.generate_batch(inputs=text["input_ids"].tolist(), pixel_values=pixels),
        lambda: llava_sdpa.generate(**inputs, **options),
    )
    with tokenprune.apply(llava_sdpa, keep=5, **how) as handle:
        for call in calls:
            with pytest.raises(tokenprune.UnsupportedCallError, match="batching .* reads no images"):
                call()
        assert handle.last is None
        want = llava_sdpa.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert "generate_batch" not in vars(llava_sdpa)
    with tokenprune.apply(llava_sdpa, keep=5, **how):
        assert torch.equal(llava_sdpa.generate(**inputs, max_new_tokens=3, do_sample=False), want)


def test_a_manager_refuses_placeholders_while_its_model_is_pruned():
    model = tiny_models.llava()  # its attention stays paged
    ids = tiny_models.llava_inputs((3, "I", 5))["input_ids"][0].tolist()
    text = tiny_models.llava_inputs((4,))["input_ids"][0].tolist()
    with tokenprune.apply(model, keep=5):
        manager = model.init_continuous_batching()
        for add in (manager.add_request, lambda ids: manager.add_requests([ids])):
            with pytest.raises(tokenprune.UnsupportedCallError, match="a manager.* reads no images"):
                add(ids)
            add(text)
    manager.add_request(ids)  # what stock code makes of it is its own
    assert not {"generate_batch", "init_continuous_batching"} & set(vars(model))


@pytest.mark.parametrize("how", METHODS, ids=lambda how: how["method"])
def test_a_prompt_with_an_image_is_refused_by_the_kind_of_its_cache(llava_sdpa, how):
    inputs = tiny_models.llava_inputs((3, "I", 5))
    with tokenprune.apply(llava_sdpa, keep=5, **how):
        want = llava_sdpa(**inputs).logits
        with pytest.raises(tokenprune.UnsupportedCallError, match="into a Blocks, which has no layers"):
            llava_sdpa(**inputs, **{CACHE: Blocks()})
        assert torch.equal(llava_sdpa(**inputs).logits, want)
