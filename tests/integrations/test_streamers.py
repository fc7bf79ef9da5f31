# SPDX-License-Identifier: Apache-2.0
"""Streamers print, or hand to another thread, the text that `generate` returns."""

import asyncio
import threading

import pytest
import tiny_models
import tiny_processors
from transformers import AsyncTextIteratorStreamer, TextIteratorStreamer, TextStreamer

import tokenprune

pytestmark = pytest.mark.usefixtures("no_gradients")

METHODS = ["zoo-exact", "fastv"]
GREEDY = {"do_sample": False}


@pytest.fixture
def prompt(tiny):
    """Inputs of a picture and a question for the tiny model, whose answer has ten words."""
    _, processor = tiny
    text = "<image> what is in this picture ?"
    return processor(images=tiny_processors.noise(32, 32, seed=3), text=text, return_tensors="pt")


def answer(model, processor, inputs, **options):
    ids = model.generate(**inputs, **GREEDY, **options)[0, inputs["input_ids"].shape[1] :]
    return processor.decode(ids)


@pytest.mark.parametrize("method", METHODS)
def test_a_text_streamer_prints_the_answer(tiny, prompt, capsys, method):
    model, processor = tiny
    with tokenprune.apply(model, method=method, keep=5):
        want = answer(model, processor, prompt, max_new_tokens=10)
        streamer = TextStreamer(processor.tokenizer, skip_prompt=True)
        model.generate(**prompt, **GREEDY, max_new_tokens=10, streamer=streamer)
    assert capsys.readouterr().out.split() == want.split()
    assert len(want.split()) == 10


@pytest.mark.parametrize("method", METHODS)
def test_a_text_streamer_of_the_embedded_model(embedded, scenes, capsys, method):
    model, processor = embedded
    text = f"USER: <image> {scenes[1][0]} ASSISTANT:"
    inputs = processor(images=scenes[0][0], text=text, return_tensors="pt")
    with tokenprune.apply(model, method=method, keep=18):
        want = answer(model, processor, inputs)
        streamer = TextStreamer(processor.tokenizer, skip_prompt=True)
        model.generate(**inputs, **GREEDY, streamer=streamer)
    assert capsys.readouterr().out.strip() == want.strip() != ""


@pytest.mark.parametrize("method", METHODS)
def test_an_iterator_over_what_another_thread_generates(tiny, prompt, method):
    model, processor = tiny
    with tokenprune.apply(model, method=method, keep=5) as handle:
        want = answer(model, processor, prompt, max_new_tokens=10)
        streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, timeout=60)
        options = {**prompt, **GREEDY, "max_new_tokens": 10, "streamer": streamer}
        thread = threading.Thread(target=model.generate, kwargs=options)
        thread.start()
        parts = list(streamer)
        thread.join()
        assert handle.last.n_after == 5
    assert "".join(parts).split() == want.split()


@pytest.mark.parametrize("method", METHODS)
def test_two_streams_of_one_model_at_once(tiny, method):
    """Calls wait for each other, one by one: the streams take turns, and none gets the other's words."""
    model, processor = tiny
    pictures = [tiny_processors.noise(32, 32, seed=seed) for seed in (3, 4)]
    texts = ["<image> what ?", "what is in this picture ? <image> and the one before ?"]
    prompts = [
        processor(images=picture, text=text, return_tensors="pt")
        for picture, text in zip(pictures, texts, strict=True)
    ]
    with tokenprune.apply(model, method=method, keep=5):
        want = [answer(model, processor, inputs, max_new_tokens=12) for inputs in prompts]
        streamers = [TextIteratorStreamer(processor.tokenizer, skip_prompt=True, timeout=60) for _ in prompts]
        threads = [
            threading.Thread(
                target=model.generate, kwargs={**inputs, **GREEDY, "max_new_tokens": 12, "streamer": streamer}
            )
            for inputs, streamer in zip(prompts, streamers, strict=True)
        ]
        for thread in threads:
            thread.start()
        got = ["".join(streamer) for streamer in streamers]
        for thread in threads:
            thread.join()
    assert [text.split() for text in got] == [text.split() for text in want]
    assert want[0] != want[1]


@pytest.mark.parametrize("method", METHODS)
def test_an_asynchronous_iterator(tiny, prompt, method):
    model, processor = tiny

    async def stream():
        streamer = AsyncTextIteratorStreamer(processor.tokenizer, skip_prompt=True, timeout=60)
        options = {**prompt, **GREEDY, "max_new_tokens": 10, "streamer": streamer}
        thread = threading.Thread(target=model.generate, kwargs=options)
        thread.start()
        parts = [part async for part in streamer]
        thread.join()
        return "".join(parts)

    with tokenprune.apply(model, method=method, keep=5):
        want = answer(model, processor, prompt, max_new_tokens=10)
        assert asyncio.run(stream()).split() == want.split()


def test_drafts_are_streamed_once_accepted(tiny, capsys):
    model, processor = tiny
    inputs = tiny_models.llava_inputs((3, "I", 5))
    inputs["input_ids"][0, -5:] = 7
    with tokenprune.apply(model, method="fastv", keep=5):
        want = answer(model, processor, inputs, max_new_tokens=10)
        streamer = TextStreamer(processor.tokenizer, skip_prompt=True)
        model.generate(**inputs, **GREEDY, max_new_tokens=10, streamer=streamer, prompt_lookup_num_tokens=3)
    assert capsys.readouterr().out.split() == want.split()


def test_a_refused_call_raises_in_its_thread(tiny, prompt):
    """The thread ends the stream, as after any error of `generate`, so that its reader stops."""
    model, processor = tiny
    raised = []

    def generate(streamer):
        try:
            model.generate(**prompt, max_new_tokens=3, streamer=streamer, prefill_chunk_size=8)
        except tokenprune.UnsupportedCallError as error:
            raised.append(error)
            streamer.end()

    with tokenprune.apply(model, keep=5):
        streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, timeout=60)
        thread = threading.Thread(target=generate, args=(streamer,))
        thread.start()
        assert list(streamer) == [""]
        thread.join()
        assert "prefill_chunk_size" in str(raised[0])
        assert answer(model, processor, prompt, max_new_tokens=3)
