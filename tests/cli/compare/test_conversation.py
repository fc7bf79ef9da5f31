# SPDX-License-Identifier: Apache-2.0
"""Later questions on what the first one left: as the cache itself answers once its words are hidden."""

import pytest
import torch
from cache_names import CACHE, cache_of
from tokenprune_cli.compare.conversation import TURNS, _applied, _ask_anew, conversations, converse, later
from tokenprune_cli.compare.dialogue import continuation, rendered, talk
from tokenprune_cli.console.failures import BadInputError
from tokenprune_cli.evaluation.prompts import tokenized
from tokenprune_cli.evaluation.settings import UNPRUNED, Setting
from tokenprune_embedded import load_embedded_model

METHODS = ("zoo-exact", "visionzip", "fastv", "sparsevlm", "pyramiddrop")
SETTINGS = [UNPRUNED, *(Setting(method, 18) for method in METHODS)]


@pytest.fixture(scope="module")
def embedded():
    return load_embedded_model()


@torch.no_grad()
def on_the_cache(embedded, questions, setting, numbers, max_new_tokens):
    """The literal thing: one cache, the first question's rows marked as padding, cropped back each time."""
    model, processor = embedded
    items = [questions.items[i] for i in numbers]
    image = questions.open_image(items[0].image)
    said = []
    with setting.applied(model):
        inputs = tokenized(processor, [image], [items[0].question.text])
        cache = cache_of(model(**inputs, use_cache=True))
        ids = inputs["input_ids"]
        length = ids.shape[1]
        after = int((ids[0] == model.config.image_token_id).nonzero().max()) + 1
        for layer in cache.layers:
            if hasattr(layer, "valid"):
                stored = layer.keys.shape[2]
                layer.valid = layer.validity(1, stored, ids.device).clone()
                layer.valid[:, stored - (length - after) :] = False
        for item in items[1:]:
            text = rendered(processor, [(item.question.text, "")]).split("<image>")[1]
            more = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
            whole = torch.cat([ids, more], 1)
            mask = torch.ones_like(whole)
            mask[:, after:length] = 0
            out = model.generate(
                input_ids=whole, attention_mask=mask, **{CACHE: cache}, do_sample=False,
                max_new_tokens=max_new_tokens,
            )  # fmt: skip
            said.append(processor.batch_decode(out[:, whole.shape[1] :], skip_special_tokens=True)[0].strip())
            if int(cache.get_seq_length()) > length:
                cache.crop(length - int(cache.get_seq_length()))
    return said


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_asked_anew_is_asked_of_the_cache(embedded, questions, work, setting):
    own = conversations(questions, work.seed)
    together = _ask_anew(*embedded, questions, work, own, setting)
    alone = [a for one in own for a in on_the_cache(embedded, questions, setting, one, work.max_new_tokens)]
    assert together == alone
    assert len(together) == 2 * (TURNS - 1)


def test_later_answers_follow_the_first_choice(embedded, questions, work):
    # with another first question a method that saw it keeps other tokens, one that did not keeps the same
    model, processor = embedded
    one = conversations(questions, work.seed)[0]
    other = (one[1], one[0], *one[2:])

    def kept(setting, numbers):
        applied, _ = _applied(model, setting, 0)
        item = questions.items[numbers[0]]
        with applied as handle:
            model(**tokenized(processor, [questions.open_image(item.image)], [item.question.text]))
            return handle.last.images[0].kept.tolist()

    assert kept(Setting("divprune", 9), one) == kept(Setting("divprune", 9), other)
    assert kept(Setting("sparsevlm-plus", 9), one) != kept(Setting("sparsevlm-plus", 9), other)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 4])  # of one token nothing has to be taken back from the cache
def test_talking_on_is_one_long_prompt_when_nothing_is_dropped(embedded, questions, length):
    model, processor = embedded
    items = [item for item in questions.items if item.image == 0][:3]
    texts, image = [item.question.text for item in items], questions.open_image(0)
    for setting in (UNPRUNED, Setting("zoo-exact", 144)):
        with setting.applied(model):
            said = talk(model, processor, setting, image, texts, length)
        for turn in range(3):
            turns = [*zip(texts[:turn], said[:turn], strict=True), (texts[turn], "")]
            inputs = processor(images=[image], text=[rendered(processor, turns)], return_tensors="pt")
            out = model.generate(**inputs, max_new_tokens=length, do_sample=False)
            new = out[:, inputs["input_ids"].shape[1] :]
            assert processor.batch_decode(new, skip_special_tokens=True)[0].strip() == said[turn]


def test_conversations_are_drawn_by_picture(questions):
    held = conversations(questions, 0)
    assert held == conversations(questions, 0) and len(held) == 2
    for picture, one in enumerate(held):
        assert len(set(one)) == TURNS
        assert {questions.items[i].image for i in one} == {picture}
    assert [item for item in later(questions, 0).items] == [questions.items[i] for o in held for i in o[1:]]


def test_a_refusal_is_a_line_too(untrained_model, questions, work):
    setting = Setting("fastv", 9, (("budget", "average"),))
    (line,) = converse(*untrained_model, questions, work, 0, [setting])
    assert "an average of 9 rows a layer is not possible" in line["refused"]


def test_a_template_that_writes_turns_anew_is_refused():
    assert continuation("USER: a", "USER: a b USER: c") == " b USER: c"
    with pytest.raises(BadInputError, match="writes earlier turns anew"):
        continuation("USER: a", "SYSTEM: x USER: a")
