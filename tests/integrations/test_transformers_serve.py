# SPDX-License-Identifier: Apache-2.0
"""The parts of `transformers serve` that answer requests, without its HTTP server."""

import asyncio

import pytest
from tokenprune_embedded import embedded_model_path
from transformers import GenerationConfig
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.utils import GenerationState

import tokenprune

pytestmark = pytest.mark.usefixtures("no_gradients")

METHODS = ["zoo-exact", "fastv"]


@pytest.fixture(scope="module")
def manager():
    manager = ModelManager(device="cpu", force_model=str(embedded_model_path()))
    yield manager
    manager.shutdown()


@pytest.fixture
def loaded(manager):
    """What a request gets: the name, the model and the processor."""
    name = manager.process_model_name(manager.force_model)
    return name, *manager.load_model_and_processor(name)


def chats(processor, scenes):
    for picture, question in zip(*scenes, strict=True):
        content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
        yield processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )


def answer(model, processor, inputs, settings):
    ids = model.generate(**inputs, generation_config=settings)[0, inputs["input_ids"].shape[1] :]
    return processor.decode(ids, skip_special_tokens=True)


async def streamed(generator, *call):
    queue, _ = generator.generate_streaming(*call, request_id="one")
    parts = []
    while (part := await queue.get()) is not None:
        assert isinstance(part, str), part  # or the error that ended it
        parts.append(part)
    return "".join(parts)


@pytest.mark.parametrize("method", METHODS)
def test_requests_are_answered_by_the_pruned_model(manager, loaded, scenes, method):
    name, model, processor = loaded
    settings = GenerationConfig(max_new_tokens=4, do_sample=False, eos_token_id=2, pad_token_id=0)
    generator = GenerationState().get_manager(name)
    with tokenprune.apply(model, method=method, keep=18) as handle:
        assert manager.load_model_and_processor(name)[0] is model  # as for every request
        for inputs in chats(processor, scenes):
            want = answer(model, processor, inputs, settings)
            call = (model, processor, inputs, settings)
            text, n, _ = asyncio.run(generator.generate_non_streaming(*call, request_id="one"))
            assert (text, n) == (want, inputs["input_ids"].shape[1])
            assert handle.last.n_after == 18
            assert asyncio.run(streamed(generator, *call)).split() == want.split()


def test_continuous_batching_is_not_used_for_models_that_read_images(manager, loaded):
    _, model, processor = loaded
    modality = manager.get_model_modality(model, processor)
    with tokenprune.apply(model, keep=18):
        assert not GenerationState(continuous_batching=True).use_continuous_batching(model, modality)
