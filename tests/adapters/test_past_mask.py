# SPDX-License-Identifier: Apache-2.0
"""What a later call's mask says of tokens that a pruned cache already stores is honoured."""

import copy

import pytest
import tiny_families
import tiny_models
import torch
from cache_names import CACHE, cache_of
from model_cases import Case
from reference.kept_rows import entered, kept_slots
from tiny_models import EOS, PAD
from transformers import StaticCache

import tokenprune

CLOSE = {"atol": 1e-4, "rtol": 1e-3}
PROJECTOR = ("zoo-exact", "visionzip")
DECODER = ("fastv", "pyramiddrop", "sparsevlm", "dart")
ANSWER = torch.tensor([[11, EOS, PAD, PAD], [21, 22, 23, 24]])
REAL = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
QUESTION = torch.tensor([[31, 32, 33], [41, 42, 43]])


def ones(rows, n):
    return torch.ones(rows, n, dtype=torch.long)


def places(mask, n):
    """Positions of the last n tokens, as `generate` counts them."""
    return (mask.cumsum(1) - 1).clamp(min=0)[:, -n:]


def go_on(model, cache, ids, mask, **more):
    """A call on a cache, with a mask over all tokens so far."""
    at = places(mask, ids.shape[1])
    return model(input_ids=ids, attention_mask=mask, position_ids=at, **{CACHE: cache}, **more)


def conversation(model, first, answer=ANSWER, real=REAL, question=QUESTION, step=None):
    """Logits after a second question of each row: answers are stored with PADs that its mask hides.

    `step` is how many tokens of the question go into a call; None: all.
    """
    start, rows = first["attention_mask"], len(first["attention_mask"])
    out = model(**first, position_ids=places(start, start.shape[1]), use_cache=True)
    mask = torch.cat([start, ones(rows, answer.shape[1])], 1)
    go_on(model, cache_of(out), answer, mask)  # as generate, which sees the PADs that it makes
    mask = torch.cat([start, real], 1)
    for part in question.split(step or question.shape[1], 1):
        mask = torch.cat([mask, ones(rows, part.shape[1])], 1)
        logits = go_on(model, cache_of(out), part, mask).logits[:, -1]
    return logits


def alone(model, first, row, cut=tiny_models.cut_row):
    """The same of one row, unpadded and without the PADs."""
    real = REAL[row].bool()
    return conversation(
        model,
        cut(first, row),
        ANSWER[row : row + 1, real],
        REAL[row : row + 1, real],
        QUESTION[row : row + 1],
    )[0]


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize("method", [*PROJECTOR, *DECODER])
def test_pads_after_a_shorter_answer(llava, method, step):
    first = tiny_models.llava_inputs((3, "I", 5), (2, "I", 6), seed=1)
    with tokenprune.apply(llava, method=method, keep=5):
        got = conversation(llava, first, step=step)
        want = torch.stack([alone(llava, first, row) for row in range(2)])
    torch.testing.assert_close(got, want, **CLOSE)


@pytest.mark.parametrize("positions", ["original", "contiguous"])
@pytest.mark.parametrize("method", [["zoo-exact", "fastv"], "pyramiddrop"])
def test_layers_that_store_different_tokens(llava_sdpa, method, positions):
    first = tiny_models.llava_inputs((3, "I", 5), (2, "I", 4, "I", 3), seed=1)
    keep = [9, 4] if isinstance(method, list) else 4
    with tokenprune.apply(llava_sdpa, method=method, keep=keep, positions=positions):
        got = conversation(llava_sdpa, first, step=2)
        want = torch.stack([alone(llava_sdpa, first, row) for row in range(2)])
    torch.testing.assert_close(got, want, **CLOSE)


@pytest.mark.parametrize(
    ("name", "method"), [("internvl", "fastv"), ("llava_onevision", "divprune"), ("mistral3", "zoo-exact")]
)
def test_other_families(name, method):
    model = tiny_families.model(name)
    first = tiny_families.inputs(name, (3, "I", 5), (2, "I", 6))

    def cut(given, row):
        return tiny_families.cut_row(name, given, row)

    with tokenprune.apply(model, method=method, keep=5):
        got = conversation(model, first)
        want = torch.stack([alone(model, first, row, cut) for row in range(2)])
    torch.testing.assert_close(got, want, **CLOSE)


def test_gemma_3_against_stock_code_fed_the_kept_rows():
    """Its windows count hidden tokens as well: in stock code too, a row alone answers otherwise."""
    model = tiny_families.model("gemma3")
    first = tiny_families.inputs("gemma3", (3, "I", 5), (2, "I", 6))
    with tokenprune.apply(model, method="divprune", keep=5, positions="contiguous") as handle:
        got = conversation(model, first)
        images = handle.last.images
    rows = zip(first["input_ids"], images, strict=True)
    keep = torch.stack([kept_slots(ids, [image]) for ids, image in rows])
    kept = {name: first[name][keep].view(2, -1) for name in ("attention_mask", "token_type_ids")}
    kept["inputs_embeds"] = entered(model, first)["inputs_embeds"][keep].view(
        2, kept["attention_mask"].shape[1], -1
    )
    torch.testing.assert_close(got, conversation(model, kept), **CLOSE)


@pytest.mark.parametrize("method", ["zoo-exact", "pyramiddrop"])
def test_qwen(method):
    """With positions by hand: three axes, of which those of text go on alike."""
    case = Case("qwen")
    first = case.inputs((3, ("I", 4, 6), 5), (2, ("I", 4, 4), 6))

    def logits(inputs, answer, real, question):
        start = inputs["attention_mask"]
        out = case.model(**inputs, use_cache=True)
        shift = case.model.model.rope_deltas
        for ids, mask in (
            (answer, torch.cat([start, torch.ones_like(answer)], 1)),
            (question, torch.cat([start, real, torch.ones_like(question)], 1)),
        ):
            at = (places(mask, ids.shape[1]) + shift)[None].expand(3, -1, -1)
            out = case.model(input_ids=ids, attention_mask=mask, position_ids=at, **{CACHE: cache_of(out)})
        return out.logits[:, -1]

    with tokenprune.apply(case.model, method=method, keep=5):
        got = logits(first[0], ANSWER, REAL, QUESTION)
        for row in range(2):
            real, one = REAL[row].bool(), slice(row, row + 1)
            parts = ANSWER[one, real], REAL[one, real], QUESTION[one]
            want = logits(case.alone(first, row)[0], *parts)[0]
            torch.testing.assert_close(got[row], want, **CLOSE)


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_a_second_turn_by_generate(llava_sdpa, cache, method):
    """Row 0's first answer is cut short by hand: the rest of it is padding from then on."""
    model, first = llava_sdpa, tiny_models.llava_inputs((3, "I", 5), (2, "I", 6), seed=1)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True}
    options |= {"output_logits": True}

    def two_turns(inputs, n_real):
        more = {CACHE: StaticCache(model.config.text_config, 64)} if cache == "static" else {}
        out = model.generate(**inputs, **options, **more)
        n = inputs["input_ids"].shape[1]
        answer = out.sequences[:, n:]
        real = (torch.arange(4)[None] < torch.tensor(n_real)[:, None]).long()
        question = QUESTION[: len(answer)]
        ids = torch.cat([inputs["input_ids"], torch.where(real == 1, answer, PAD), question], 1)
        mask = torch.cat([inputs["attention_mask"], real, torch.ones_like(question)], 1)
        out = model.generate(ids, attention_mask=mask, **{CACHE: cache_of(out)}, **options)
        return torch.stack(out.logits, 1)

    with tokenprune.apply(model, method=method, keep=5):
        got = two_turns(first, [2, 4])
        row = tiny_models.cut_row(first, 0)
        short = model.generate(**row, **{**options, "max_new_tokens": 3, "min_new_tokens": 3})
        ids = torch.cat([short.sequences[:, :-1], QUESTION[:1]], 1)  # the third was never stored
        want = model.generate(ids, attention_mask=torch.ones_like(ids), **{CACHE: cache_of(short)}, **options)
    torch.testing.assert_close(got[0], torch.stack(want.logits, 1)[0], **CLOSE)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("method", ["zoo-exact", "pyramiddrop"])
def test_text_of_the_prompt_that_a_later_mask_hides(llava, method, n):
    """What is stored of a hidden token does not count, whatever it is."""
    first = tiny_models.llava_inputs((4, "I", 5), (4, "I", 5), seed=1)
    hiding = torch.cat([first["attention_mask"], ones(2, n)], 1)
    hiding[0, first["input_ids"].shape[1] - 2] = 0

    def logits(mask, noise=0.0):
        cache = cache_of(llava(**first, use_cache=True))
        for layer in cache.layers:
            layer.keys[0, :, -2] += noise
            layer.values[0, :, -2] += noise
        return llava(input_ids=QUESTION[:, :n], attention_mask=mask, **{CACHE: cache}).logits

    with tokenprune.apply(llava, method=method, keep=5):
        seen, hidden = logits(torch.ones_like(hiding)), logits(hiding)
        torch.testing.assert_close(logits(hiding, noise=3.0), hidden)
    assert not torch.allclose(seen[0], hidden[0], **CLOSE)
    torch.testing.assert_close(seen[1], hidden[1], **CLOSE)


@pytest.mark.parametrize("method", ["zoo-exact", "divprune"])
def test_what_a_later_mask_hides_is_hidden_as_in_stock_code_fed_the_kept_rows(llava, method):
    """Text before and after the image, of which a later mask hides some, and then shows it again."""
    first = tiny_models.llava_inputs((4, "I", 5), seed=1)
    ids, length = QUESTION[:1], first["input_ids"].shape[1]

    def logits(inputs, tokens, hide):
        cache, said = cache_of(llava(**inputs, use_cache=True)), []
        for hidden in (hide, []):
            mask = ones(1, length + 3 * (len(said) + 1))
            mask[0, hidden] = 0
            mask = torch.cat([mask[:, tokens], mask[:, length:]], 1)
            said.append(llava(input_ids=ids, attention_mask=mask, **{CACHE: cache}).logits)
        return said

    whole = torch.arange(length)
    with tokenprune.apply(llava, method=method, keep=5) as handle:
        got = logits(first, whole, [2, length - 2])
        keep = kept_slots(first["input_ids"][0], handle.last.images)
    rows = {"inputs_embeds": entered(llava, first)["inputs_embeds"][:, keep]}
    want = logits(rows, whole[keep], [2, length - 2])
    torch.testing.assert_close(got, want, **CLOSE)


@pytest.mark.parametrize("method", ["zoo-exact", "fastv", "sparsevlm"])
def test_an_unpruned_past_before_an_image(llava, method):
    """A first turn of text alone with padding on both sides of what is said, then a turn with an image."""
    text = tiny_models.llava_inputs((6,), (3,), seed=3)
    picture = tiny_models.llava_inputs((2, "I", 4), (5, "I", 1), seed=4)

    def two_turns(one, answer, real, two):
        out = llava(
            **one, position_ids=places(one["attention_mask"], one["input_ids"].shape[1]), use_cache=True
        )
        mask = torch.cat([one["attention_mask"], torch.ones_like(answer)], 1)
        go_on(llava, cache_of(out), answer, mask)
        mask = torch.cat([one["attention_mask"], real, two["attention_mask"]], 1)
        pixels = {"pixel_values": two["pixel_values"]}
        return go_on(llava, cache_of(out), two["input_ids"], mask, **pixels).logits[:, -1]

    with tokenprune.apply(llava, method=method, keep=5) as handle:
        got = two_turns(text, ANSWER, REAL, picture)
        kept = [image.kept.tolist() for image in handle.last.images]
        for row in range(2):
            real, one = REAL[row].bool(), slice(row, row + 1)
            cut = tiny_models.cut_row
            want = two_turns(cut(text, row), ANSWER[one, real], REAL[one, real], cut(picture, row))[0]
            torch.testing.assert_close(got[row], want, **CLOSE)
            assert handle.last.images[0].kept.tolist() == kept[row]


@pytest.mark.parametrize("method", ["zoo-exact", "pyramiddrop"])
def test_a_second_image_whose_turn_hides_pads(llava_sdpa, method):
    model = llava_sdpa
    first = tiny_models.llava_inputs((3, "I", 5), (2, "I", 6), seed=1)
    second = tiny_models.llava_inputs((2, "I", 3), (2, "I", 3), seed=5)

    def two_turns(one, answer, real, two):
        out = model(
            **one, position_ids=places(one["attention_mask"], one["input_ids"].shape[1]), use_cache=True
        )
        go_on(model, cache_of(out), answer, torch.cat([one["attention_mask"], torch.ones_like(answer)], 1))
        mask = torch.cat([one["attention_mask"], real, two["attention_mask"]], 1)
        out = go_on(model, cache_of(out), two["input_ids"], mask, pixel_values=two["pixel_values"])
        mask = torch.cat([mask, ones(len(mask), 1)], 1)
        return go_on(model, cache_of(out), torch.full((len(mask), 1), 51), mask).logits[:, -1]

    with tokenprune.apply(model, method=method, keep=5):
        got = two_turns(first, ANSWER, REAL, second)
        cut = tiny_models.cut_row
        for row in range(2):
            real, one = REAL[row].bool(), slice(row, row + 1)
            want = two_turns(cut(first, row), ANSWER[one, real], REAL[one, real], cut(second, row))[0]
            torch.testing.assert_close(got[row], want, **CLOSE)


@pytest.mark.parametrize("method", ["zoo-exact", "fastv", "pyramiddrop"])
def test_a_new_token_that_its_own_mask_hides(llava, method):
    """A finished row's PAD of one step, hidden from then on: what follows is as without it."""
    first = tiny_models.llava_inputs((3, "I", 5), (2, "I", 6), seed=1)
    next_one = torch.tensor([[51], [52]])

    def logits(inputs, pads):
        out = llava(
            **inputs,
            position_ids=places(inputs["attention_mask"], inputs["input_ids"].shape[1]),
            use_cache=True,
        )
        mask = inputs["attention_mask"]
        for pad in pads:
            mask = torch.cat([mask, torch.tensor([[pad], [1]])[: len(mask)]], 1)
            out = go_on(llava, cache_of(out), QUESTION[: len(mask), :1], mask)
        mask = torch.cat([mask, ones(len(mask), 1)], 1)
        return go_on(llava, cache_of(out), next_one[: len(mask)], mask).logits[:, -1]

    with tokenprune.apply(llava, method=method, keep=5):
        got = logits(first, [0])
        torch.testing.assert_close(got[0], logits(tiny_models.cut_row(first, 0), [])[0], **CLOSE)


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
def test_beams(llava_sdpa, method):
    """Beams reorder what is known of stored tokens with them."""
    first = tiny_models.llava_inputs((3, "I", 5), (2, "I", 6), seed=1)
    options = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False}
    hidden = {**first, "attention_mask": first["attention_mask"].clone()}
    hidden["attention_mask"][1, 1] = 0  # a hole in the text
    with tokenprune.apply(llava_sdpa, method=method, keep=5):
        got = llava_sdpa.generate(**hidden, **options)[:, -5:]
        for row in range(2):
            want = llava_sdpa.generate(**tiny_models.cut_row(hidden, row), **options)[0, -5:]
            assert got[row].tolist() == want.tolist()


def test_a_cropped_and_a_copied_cache_know_their_tokens(llava_sdpa):
    model, first = llava_sdpa, tiny_models.llava_inputs((3, "I", 5), (2, "I", 6), seed=1)
    n = first["input_ids"].shape[1]
    with tokenprune.apply(model, method="divprune", keep=5):
        want = conversation(model, first)
        out = model(**first, position_ids=places(first["attention_mask"], n), use_cache=True)
        cache, start = cache_of(out), first["attention_mask"]
        go_on(model, cache, ANSWER, torch.cat([start, ones(2, 4)], 1))
        go_on(model, cache, QUESTION, torch.cat([start, ones(2, 7)], 1))
        cache.crop(n + 4)
        cache = copy.deepcopy(cache)
        got = go_on(model, cache, QUESTION, torch.cat([start, REAL, ones(2, 3)], 1)).logits[:, -1]
    torch.testing.assert_close(got, want, **CLOSE)
