# SPDX-License-Identifier: Apache-2.0
"""With labels a method looks from before the answer: the loss is what the pruned model itself would say."""

import pytest
import tiny_families
import tiny_models
import torch
from cache_names import CACHE, cache_of
from model_cases import Case
from torch.nn.functional import cross_entropy, pad

import tokenprune

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
METHODS = (
    "zoo-exact",
    "visionzip",
    "fastv",
    "pyramiddrop",
    "sparsevlm",
    "sparsevlm-plus",
    "dart",
    "priortr",
    "clse",
    {"scorer": "relevance", "reads": "language"},
)
ANSWER = torch.tensor([[11, 23, 37, 41]])


def named(method):
    """Arguments of `apply` for a method, or for a scorer that reads the text before the language model."""
    if isinstance(method, str):
        trims = tokenprune.method(method).trim_early_cache
        return {"method": method} | ({"trim_early_cache": False} if trims else {})
    return {"scorer": tokenprune.scorer("relevance", source="language"), "selector": "topk"}


def with_answer(prompt, answer):
    """A prompt of one row with an answer, and its labels."""
    n = answer.shape[1]
    whole = {**prompt, "input_ids": torch.cat([prompt["input_ids"], answer], 1)}
    for name in ("attention_mask", "mm_token_type_ids", "token_type_ids"):
        if name in prompt:
            whole[name] = pad(prompt[name], (0, n), value=int(name == "attention_mask"))
    return whole, torch.cat([torch.full_like(prompt["input_ids"], -100), answer], 1)


def said(model, turns):
    """Logits of each answer's tokens when a conversation goes on token by token on one cache."""
    logits, cache = [], {}
    for prompt, answer in turns:
        out = model(**{**prompt, "attention_mask": None}, use_cache=True, **cache)
        cache = {CACHE: cache_of(out)}
        logits.append(out.logits[0, -1])
        for token in answer[0]:
            logits.append(model(input_ids=token.view(1, 1), **cache).logits[0, -1])
        logits.pop()  # of what comes after the answer
    return torch.stack(logits)


def check(model, prompt, method, keep=5, answer=ANSWER, **options):
    """The loss is that of decoding the answer, token by token, and so is what was kept."""
    whole, labels = with_answer(prompt, answer)
    with tokenprune.apply(model, keep=keep, **named(method), **options) as handle:
        loss, kept = model(**whole, labels=labels).loss, [i.kept.tolist() for i in handle.last.images]
        want = cross_entropy(said(model, [(prompt, answer)]), answer[0])
        assert [image.kept.tolist() for image in handle.last.images] == kept
    torch.testing.assert_close(loss, want, **CLOSE)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_loss_is_the_answers_likelihood(llava, method):
    check(llava, tiny_models.llava_inputs((3, "I", 5), seed=4), method)


@pytest.mark.parametrize("method", ["priortr", "clse"])
def test_caches_that_are_trimmed_take_no_labels(llava_sdpa, method):
    prompt = tiny_models.llava_inputs((3, "I", 5), seed=4)
    whole, labels = with_answer(prompt, ANSWER)
    with tokenprune.apply(llava_sdpa, keep=5, method=method):
        with pytest.raises(tokenprune.UnsupportedCallError, match="labels are not supported with trim_early"):
            llava_sdpa(**whole, labels=labels)
        assert llava_sdpa(**whole, labels=labels, use_cache=False).loss.isfinite()
        llava_sdpa(**prompt)


@pytest.mark.parametrize("method", ["fastv", METHODS[-1]], ids=str)
@pytest.mark.parametrize("positions", ["original", "contiguous"])
def test_of_two_images_before_one_answer(llava_sdpa, method, positions):
    check(llava_sdpa, tiny_models.llava_inputs((2, "I", 4, "I", 3), seed=4), method, positions=positions)


@pytest.mark.parametrize("method", ["pyramiddrop", "sparsevlm", "priortr", "clse"])
def test_of_a_prompt_that_ends_with_its_image(llava_sdpa, method):
    check(llava_sdpa, tiny_models.llava_inputs((4, "I"), seed=4), method)


@pytest.mark.parametrize("method", ["fastv", "pyramiddrop", METHODS[-1]], ids=str)
@pytest.mark.parametrize("name", ["llava_next", "qwen"])
def test_on_the_other_main_models(name, method):
    case = Case(name)
    picture = ("I", 4, 6) if name == "qwen" else ("I", 40, 60)
    prompt = case.inputs((3, picture, 5))[0]
    if name == "qwen":  # its positions after the image are those `generate` counts
        whole, labels = with_answer(prompt, ANSWER)
        with tokenprune.apply(case.model, keep=5, **named(method)) as handle:
            loss, kept = case.model(**whole, labels=labels).loss, handle.last.images[0].kept
            case.model(**prompt)
            assert torch.equal(handle.last.images[0].kept, kept)
        with tokenprune.apply(case.model, keep=5, **named(method)):
            logits = case.model(**whole, labels=labels).logits[0, -5:-1]
        torch.testing.assert_close(loss, cross_entropy(logits, ANSWER[0]), **CLOSE)
    else:
        check(case.model, prompt, method)


@pytest.mark.parametrize(("name", "method"), [("internvl", "sparsevlm"), ("mistral3", METHODS[-1])], ids=str)
def test_on_other_families(name, method):
    check(tiny_families.model(name), tiny_families.inputs(name, (3, "I", 5)), method, keep=3)


def test_two_cuts(llava_sdpa):
    prompt = tiny_models.llava_inputs((3, "I", 5), seed=4)
    whole, labels = with_answer(prompt, ANSWER)
    with tokenprune.apply(llava_sdpa, method=["divprune", "fastv"], keep=[9, 4]):
        loss = llava_sdpa(**whole, labels=labels).loss
        want = cross_entropy(said(llava_sdpa, [(prompt, ANSWER)]), ANSWER[0])
    torch.testing.assert_close(loss, want, **CLOSE)


TWO_TURNS = ("zoo-exact", "fastv", "sparsevlm", "dart", METHODS[-1])


@pytest.mark.parametrize("positions", ["original", "contiguous"])
@pytest.mark.parametrize("method", TWO_TURNS, ids=str)
def test_two_answers_and_two_images(llava_sdpa, method, positions):
    """Each image is looked at from its own question: as in a conversation of two turns on one cache."""
    model = llava_sdpa
    first, second = (
        tiny_models.llava_inputs((3, "I", 5), seed=4),
        tiny_models.llava_inputs((2, "I", 6), seed=5),
    )
    other = torch.tensor([[61, 72]])
    one, two = with_answer(first, ANSWER), with_answer(second, other)
    whole = {name: torch.cat([one[0][name], two[0][name]], 1) for name in ("input_ids", "attention_mask")}
    whole["pixel_values"] = torch.cat([first["pixel_values"], second["pixel_values"]])
    with tokenprune.apply(model, keep=5, positions=positions, **named(method)):
        loss = model(**whole, labels=torch.cat([one[1], two[1]], 1)).loss
        want = cross_entropy(
            said(model, [(first, ANSWER), (second, other)]), torch.cat([ANSWER, other], 1)[0]
        )
    torch.testing.assert_close(loss, want, **CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("method", ["fastv", "sparsevlm", METHODS[-1]], ids=str)
def test_a_padded_batch_of_answers(llava_sdpa, method, side):
    """Rows of unequal prompts and answers, padded on one side, with -100 there."""
    rows = [
        with_answer(tiny_models.llava_inputs((3, "I", 5), seed=4), ANSWER),
        with_answer(tiny_models.llava_inputs((2, "I", 4, "I", 9), seed=5), ANSWER[:, :2]),
    ]
    width = max(labels.shape[1] for _, labels in rows)

    def padded(row, value):
        n = width - row.shape[1]
        return pad(row, (n, 0) if side == "left" else (0, n), value=value)

    batch = {
        "input_ids": torch.cat([padded(whole["input_ids"], tiny_models.PAD) for whole, _ in rows]),
        "attention_mask": torch.cat([padded(whole["attention_mask"], 0) for whole, _ in rows]),
        "pixel_values": torch.cat([whole["pixel_values"] for whole, _ in rows]),
    }
    labels = torch.cat([padded(labels, -100) for _, labels in rows])
    with tokenprune.apply(llava_sdpa, keep=5, **named(method)) as handle:
        logits, kept = (
            llava_sdpa(**batch, labels=labels).logits,
            [i.kept.tolist() for i in handle.last.images],
        )
        alone = []
        for row, (whole, own) in enumerate(rows):
            want = llava_sdpa(**whole, labels=own).logits[0]
            alone += [image.kept.tolist() for image in handle.last.images]
            torch.testing.assert_close(logits[row, batch["attention_mask"][row].bool()], want, **CLOSE)
    assert kept == alone


@pytest.mark.parametrize("method", ["fastv", "dart", METHODS[-1]], ids=str)
def test_everything_labelled(llava_sdpa, method):
    """As in naive training: nothing after an image is its prompt, and what follows changes no choice."""
    inputs = tiny_models.llava_inputs((3, "I", 5), seed=4)
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][0, -5:] = torch.tensor([9, 8, 7, 6, 5])
    short = {**inputs, **{name: inputs[name][:, :-5] for name in ("input_ids", "attention_mask")}}
    with tokenprune.apply(llava_sdpa, keep=5, **named(method)) as handle:
        kept = []
        for one, labels in ((inputs, True), (other, True), (short, False)):
            llava_sdpa(**one, labels=one["input_ids"] if labels else None)
            kept.append(handle.last.images[0].kept.tolist())
    assert kept[0] == kept[1] == kept[2]


@pytest.mark.parametrize("method", ["fastv", "pyramiddrop"])
def test_labels_without_an_answer_change_nothing(llava_sdpa, method):
    inputs = tiny_models.llava_inputs((3, "I", 5), (2, "I", 6), seed=4)
    with tokenprune.apply(llava_sdpa, method=method, keep=5) as handle:
        want = llava_sdpa(**inputs).logits
        kept = [image.kept.tolist() for image in handle.last.images]
        none = torch.full_like(inputs["input_ids"], -100)
        none[:, 1] = inputs["input_ids"][:, 1]  # before the image: no answer to it
        got = llava_sdpa(**inputs, labels=none).logits
        assert [image.kept.tolist() for image in handle.last.images] == kept
    assert torch.equal(got, want)


def test_labels_of_a_call_are_forgotten_with_it(llava_sdpa):
    inputs = tiny_models.llava_inputs((3, "I", 5), seed=4)
    labels = inputs["input_ids"].clone()
    with tokenprune.apply(llava_sdpa, method="fastv", keep=5) as handle:
        llava_sdpa(**inputs)
        want = handle.last.images[0].kept.tolist()
        llava_sdpa(**inputs, labels=labels)
        assert handle.last.images[0].kept.tolist() != want
        llava_sdpa(**inputs)
        assert handle.last.images[0].kept.tolist() == want
        with pytest.raises((RuntimeError, ValueError)):  # labels of another length
            llava_sdpa(**inputs, labels=labels[:, :-1])
        llava_sdpa.model(**inputs)
        assert handle.last.images[0].kept.tolist() == want
