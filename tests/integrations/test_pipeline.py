# SPDX-License-Identifier: Apache-2.0
"""`transformers.pipeline`: prune `pipe.model`, and the answers are those of `generate`."""

import pytest
import tiny_processors
from transformers import pipeline

import tokenprune

pytestmark = pytest.mark.usefixtures("no_gradients")

METHODS = ["zoo-exact", "fastv"]


def chat(picture, question):
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def generated(model, processor, chats, n):
    """Answers of `generate`, one chat at a time."""
    answers = []
    for one in chats:
        inputs = processor.apply_chat_template(
            one, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        ids = model.generate(**inputs, max_new_tokens=n, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        answers.append(processor.decode(ids, skip_special_tokens=True))
    return answers


def questions_of(kind, request, scenes):
    model, processor = request.getfixturevalue(kind)
    if kind == "embedded":
        return model, processor, [chat(*pair) for pair in zip(*scenes, strict=True)], 4
    pictures = [tiny_processors.noise(32, 32, seed=seed) for seed in range(3)]
    words = ["what is in this picture ?", "what ?", "is the one before in the picture ?"]
    return model, processor, [chat(*pair) for pair in zip(pictures, words, strict=True)], 6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("kind", ["embedded", "tiny"])
def test_answers_are_those_of_generate(request, scenes, kind, batch_size, method):
    model, processor, chats, n = questions_of(kind, request, scenes)
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    options = {"max_new_tokens": n, "do_sample": False}
    with tokenprune.apply(pipe.model, method=method, keep=5) as handle:
        want = generated(model, processor, chats, n)
        out = pipe(text=chats, batch_size=batch_size, return_full_text=False, generate_kwargs=options)
        assert [len(image.kept) for image in handle.last.images] == [5]  # those of the last batch
    assert [one["generated_text"].strip() for one in sum(out, [])] == want


def test_a_model_pruned_before_the_pipeline_is_made(embedded, scenes):
    model, processor = embedded
    pictures, questions = scenes
    texts = [f"USER: <image> {question} ASSISTANT:" for question in questions]
    with tokenprune.apply(model, method="zoo-exact", keep=18) as handle:
        pipe = pipeline("image-text-to-text", model=model, processor=processor)
        out = pipe(images=pictures[0], text=texts[0], return_full_text=False)
        assert handle.last.n_after == 18
        inputs = processor(images=pictures[0], text=texts[0], return_tensors="pt")
        ids = model.generate(**inputs)
    answer = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert out[0]["generated_text"].strip() == answer


def test_a_pipeline_is_no_model(tiny):
    model, processor = tiny
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    with pytest.raises(tokenprune.UnsupportedModelError, match=r"ImageTextToTextPipeline; pass its \.model"):
        tokenprune.apply(pipe, keep=5)
    assert not tokenprune.is_pruned(model)


def test_what_holds_no_model_is_refused_too():
    with pytest.raises(tokenprune.UnsupportedModelError, match="got str; load one, for example with from_"):
        tokenprune.apply("llava", keep=5)
