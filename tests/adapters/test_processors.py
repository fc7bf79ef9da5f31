# SPDX-License-Identifier: Apache-2.0
"""What users type: `model.generate(**processor(images=..., text=...))` with the stock processors, pruned."""

import functools

import pytest
import tiny_processors
import torch
from model_cases import Case
from reference import llava_by_hand
from reference.kept_rows import kept_slots, stock_logits
from tiny_models import EOS, IMAGE, VIDEO

import tokenprune

TOLERANCE = {"atol": 5e-4, "rtol": 1e-3}
KEEP = 7
METHODS = ["zoo-exact", "divprune", "fastv"]
TEXT = "what is in this picture ?"
PICTURES = [((40, 60), TEXT), ((64, 64), "and", (60, 30), TEXT), ("what is this ?",)]
FILMS = [
    ((6, 20, 36), "what is in this video ?"),
    ((40, 60), "and", (4, 30, 16), TEXT),
    ("and the one before ?",),
]
CASES = {
    # LLaVA: every picture becomes a square of 4 x 4 tokens
    "llava": (PICTURES, [[(1, 4, 4)], [(1, 4, 4), (1, 4, 4)], []]),
    # a base view of 16, and 6 x 8, 8 x 8 and 8 x 4 unpadded tokens, each row of them with a newline
    "llava_next": (PICTURES, [[16 + 6 * 9], [16 + 8 * 9, 16 + 8 * 5], []]),
    # sides in multiples of 8 pixels, at most 1024 in all: 24 x 32, 32 x 32, 40 x 16
    "qwen": (PICTURES, [[(1, 3, 4)], [(1, 4, 4), (1, 5, 2)], []]),
    # two frames a step; 16 x 32 and 32 x 16
    "qwen, video": (FILMS, [[(3, 2, 4)], [(1, 3, 4), (2, 4, 2)], []]),
}


@functools.cache
def processor(name):
    return getattr(tiny_processors, name)()


def prompt(name, *rows):
    """Inputs of the stock processor for rows of texts and of sizes of pictures and videos."""
    texts, images, videos = [], [], []
    for row in rows:
        content = []
        for part in row:
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
                continue
            content.append({"type": "image" if len(part) == 2 else "video"})
            (images if len(part) == 2 else videos).append(tiny_processors.noise(*part, seed=sum(part)))
        messages = [{"role": "user", "content": content}]
        texts.append(processor(name).apply_chat_template(messages, add_generation_prompt=True))
    given = {"images": images} if images else {}
    if videos:
        given["videos"] = videos
    return processor(name)(text=texts, **given, padding=True, return_tensors="pt")


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """Name of the model, the model, rows, and what their pictures are in tokens."""
    name = request.param.split(",")[0]
    rows, sizes = CASES[request.param]
    return name, Case(name).model, rows, sizes


def generated(model, inputs, **options):
    out = model.generate(
        **inputs,
        max_new_tokens=4,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    return out.sequences, torch.stack(out.logits, 1)


def volume(size):
    return size if isinstance(size, int) else size[0] * size[1] * size[2]


@pytest.mark.parametrize("method", METHODS)
def test_generate_on_what_the_processor_gives(case, method):
    name, model, rows, sizes = case
    inputs = prompt(name, *rows)
    ids = inputs["input_ids"]
    written = ((ids == IMAGE) | (ids == VIDEO)).sum(1).tolist()
    assert written == [sum(map(volume, row)) for row in sizes]
    with tokenprune.apply(model, method=method, keep=KEEP) as handle:
        sequences, logits = generated(model, inputs)
        images = handle.last.images
    assert torch.equal(sequences[:, : ids.shape[1]], ids)
    want = sorted((row, volume(size)) for row, each in enumerate(sizes) for size in each)
    assert sorted((image.row, image.n_before) for image in images) == want
    for image in images:
        assert image.n_after == len(image.kept) == len(set(image.kept.tolist()))
        assert name == "llava_next" or image.layout.grid in sizes[image.row]
    per_tile = name == "llava_next" and tokenprune.method(method).scope == "tile"
    # by tile the budget is for five of them; 60 x 30 has three: 7 * 3 / 5
    assert [image.n_after for image in images] == ([7, 7, 4] if per_tile else [KEEP] * len(images))
    for row, parts in enumerate(rows):
        with tokenprune.apply(model, method=method, keep=KEEP):
            _, alone = generated(model, prompt(name, parts))
        torch.testing.assert_close(logits[row, : alone.shape[1]], alone[0], **TOLERANCE)


@pytest.mark.parametrize("method", METHODS)
def test_keeping_everything_is_bit_identical(case, method):
    name, model, rows, _ = case
    inputs = prompt(name, *rows)
    sequences, logits = generated(model, inputs)
    for budget in ({"keep": 1000}, {"keep_ratio": 1.0}):
        with tokenprune.apply(model, method=method, **budget) as handle:
            got = generated(model, inputs)
            assert handle.last.n_after == handle.last.n_before
        assert torch.equal(got[0], sequences) and torch.equal(got[1], logits)


@pytest.mark.parametrize("method", ["zoo-exact", "divprune"])
def test_prefill_and_decoding_equal_stock_code_fed_the_kept_rows(case, method):
    name, model, rows, _ = case
    for row in rows[:2]:
        inputs = prompt(name, row)
        ids = inputs["input_ids"][0]
        with tokenprune.apply(model, method=method, keep=KEEP) as handle:
            sequences, logits = generated(model, inputs, suppress_tokens=[IMAGE, VIDEO, EOS])
        keep = kept_slots(ids, handle.last.images)
        want = stock_logits(model, inputs, keep, sequences[0, len(ids) :])
        torch.testing.assert_close(logits[0], want[int(keep.sum()) - 1 : -1], **TOLERANCE)


@pytest.mark.parametrize("positions", ["contiguous", "original"])
def test_llava_equals_the_choice_and_the_decoding_by_hand(positions):
    model, method = Case("llava").model, tokenprune.method("zoo-exact")
    inputs = prompt("llava", *PICTURES)
    with tokenprune.apply(model, method=method, keep=KEEP, positions=positions):
        sequences, logits = generated(model, inputs)
    by_hand = llava_by_hand.rows_of(model, inputs, method, KEEP, positions)
    for row, (embeds, places, after) in enumerate(by_hand):
        tokens, want = llava_by_hand.generate(model, embeds, places, after, 4)
        start = inputs["input_ids"].shape[1]
        assert sequences[row, start : start + len(tokens)].tolist() == tokens
        torch.testing.assert_close(logits[row, : len(tokens)], want, **TOLERANCE)


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen"])
def test_a_chat_template_that_tokenises(name):
    """The shorter way to the same inputs."""
    content = [
        {"type": "image", "image": tiny_processors.noise(40, 60, seed=100)},
        {"type": "text", "text": TEXT},
    ]
    inputs = processor(name).apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    model, same = Case(name).model, prompt(name, PICTURES[0])
    with tokenprune.apply(model, method="zoo-exact", keep=KEEP):
        got, want = generated(model, inputs), generated(model, same)
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
