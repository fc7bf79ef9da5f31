# SPDX-License-Identifier: Apache-2.0
"""Later questions on what the first one left: the answers equal those on the cache without its words."""

import dataclasses

import pytest
import torch
from cache_names import CACHE, cache_of
from tokenprune_cli.compare.answers import Run
from tokenprune_cli.compare.conversation import (
    TURNS,
    apply_replayed,
    ask_anew,
    conversations,
    converse,
    later,
)
from tokenprune_cli.compare.dialogue import continuation, rendered, talk
from tokenprune_cli.console.failures import BadInputError
from tokenprune_embedded import load_embedded_model
from tokenprune_evaluation.prompts import tokenized
from tokenprune_evaluation.settings import UNPRUNED, Setting

import tokenprune

METHODS = ("zoo-exact", "visionzip", "fastv", "sparsevlm", "pyramiddrop")
SETTINGS = [UNPRUNED, *(Setting(method, 18) for method in METHODS)]


@pytest.fixture(scope="module")
def embedded(questions, options):
    return Run(*load_embedded_model(), questions, options)


@torch.no_grad()
def on_the_cache(run, setting, numbers):
    """The literal thing: one cache, the first question's rows marked as padding, cropped back each time."""
    model, processor = run.model, run.processor
    items = [run.questions.items[i] for i in numbers]
    image = run.questions.open_image(items[0].image)
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
                max_new_tokens=run.options.max_new_tokens,
            )  # fmt: skip
            said.append(processor.batch_decode(out[:, whole.shape[1] :], skip_special_tokens=True)[0].strip())
            if int(cache.get_seq_length()) > length:
                cache.crop(length - int(cache.get_seq_length()))
    return said


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_asked_anew_is_asked_of_the_cache(embedded, setting):
    held = conversations(embedded.questions, embedded.options.seed)
    together = ask_anew(embedded, held, setting)
    alone = [answer for numbers in held for answer in on_the_cache(embedded, setting, numbers)]
    assert together == alone
    assert len(together) == 2 * (TURNS - 1)


def test_later_answers_follow_the_first_choice(embedded):
    # with another first question a method that saw it keeps other tokens, one that did not keeps the same
    first, second, *_ = conversations(embedded.questions, embedded.options.seed)[0]

    def kept(setting, number):
        applied, _ = apply_replayed(embedded, setting)
        with applied as handle:
            embedded.model(**embedded.questions.inputs(embedded.processor, [number]))
            return handle.last.images[0].kept.tolist()

    assert kept(Setting("divprune", 9), first) == kept(Setting("divprune", 9), second)
    assert kept(Setting("sparsevlm-plus", 9), first) != kept(Setting("sparsevlm-plus", 9), second)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 4])  # of one token nothing has to be taken back from the cache
def test_talking_on_is_one_long_prompt_when_nothing_is_dropped(embedded, length):
    options = dataclasses.replace(embedded.options, max_new_tokens=length)
    run = dataclasses.replace(embedded, options=options)
    model, processor, image = run.model, run.processor, run.questions.open_image(0)
    numbers = [i for i, item in enumerate(run.questions.items) if item.image == 0][:3]
    texts = [run.questions.items[i].question.text for i in numbers]
    for setting in (UNPRUNED, Setting("zoo-exact", 144)):
        said = talk(run, setting, numbers)
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


def test_a_refusal_is_a_line_too(run):
    setting = Setting("fastv", 9, (("budget", "average"),))
    (line,) = converse(run, 0, [setting])
    assert "an average of 9 rows a layer is not possible" in line["refused"]


def test_a_method_that_trims_early_caches_is_not_asked_anew(run, monkeypatch):
    original = tokenprune.method
    monkeypatch.setattr(tokenprune, "method", lambda name: original(name, trim_early_cache=True))
    (line,) = converse(run, 0, [Setting("fastv", 9)])
    assert "trims the caches of early layers after the first question" in line["refused"]


def test_a_template_that_changes_earlier_turns_is_refused():
    assert continuation("USER: a", "USER: a b USER: c") == " b USER: c"
    with pytest.raises(BadInputError, match="changes earlier turns with every turn"):
        continuation("USER: a", "SYSTEM: x USER: a")
