# SPDX-License-Identifier: Apache-2.0
"""Several samples packed in one row without a mask: each is pruned and answered as if it were alone."""

import pytest
import tiny_families
import tiny_models
import torch
from model_cases import Case
from reference.kept_rows import entered, kept_slots

import tokenprune

CLOSE = {"atol": 1e-4, "rtol": 1e-3}
METHODS = ("zoo-exact", "visionzip", "pool", "fastv", "pyramiddrop", "sparsevlm", "sparsevlm-plus", "dart")
PER_TOKEN = ("input_ids", "mm_token_type_ids", "token_type_ids")
PER_IMAGE = ("pixel_values", "image_sizes", "image_grid_thw")


def packed(rows, places=None):
    """A batch of rows of samples; positions start again with each sample, or are given by row and sample."""
    places = places or [[torch.arange(one["input_ids"].shape[1])[None] for one in row] for row in rows]
    samples = [sample for row in rows for sample in row]
    made = {"position_ids": torch.cat([torch.cat(row, -1) for row in places], -2)}
    for name in PER_TOKEN:
        if name in samples[0]:
            made[name] = torch.cat([torch.cat([sample[name] for sample in row], 1) for row in rows])
    for name in PER_IMAGE:
        brought = [sample[name] for sample in samples if name in sample]
        if brought:
            made[name] = torch.cat(brought)
    return made


def check(model, rows, places=None, keep=5, in_batch=None, **options):
    """Logits and kept tokens of each packed sample are those of the sample alone."""
    in_batch = in_batch or {"use_cache": False}
    with tokenprune.apply(model, keep=keep, **options) as handle:
        got, images = model(**packed(rows, places), **in_batch).logits, handle.last.images
        logits, alone = [], []
        for row in rows:
            each = []
            for sample in row:
                each.append(model(**sample, use_cache=False).logits)
                alone += handle.last.images if "pixel_values" in sample else ()
            logits.append(torch.cat(each, 1))
    torch.testing.assert_close(got, torch.cat(logits), **CLOSE)
    assert [image.kept.tolist() for image in images] == [image.kept.tolist() for image in alone]
    return images


def llava_samples(*lengths):
    return [tiny_models.llava_inputs(parts, seed=seed) for seed, parts in enumerate(lengths)]


def qwen_places(model, rows):
    """Positions of four rows: of the text, and of three axes."""

    def places(sample):
        text = torch.arange(sample["input_ids"].shape[1]).view(1, 1, -1)
        axes = entered(model, sample).get("position_ids")  # none for text alone
        return torch.cat([text, text.expand(3, -1, -1) if axes is None else axes[-3:]])

    return [[places(sample) for sample in row] for row in rows]


@pytest.mark.parametrize("positions", ["original", "contiguous"])
@pytest.mark.parametrize("method", METHODS)
def test_packed_samples_equal_each_alone(llava, method, positions):
    samples = llava_samples((3, "I", 5), (2, "I", 6))
    check(llava, [samples], method=method, positions=positions)


@pytest.mark.parametrize("method", METHODS)
def test_rows_of_a_batch_may_drop_unequally_many(llava_sdpa, method):
    """Row 0 has two images in its first sample and one in its second; row 1 one, and text alone."""
    first = llava_samples((2, "I", 4, "I", 3), (3, "I", 5))
    second = llava_samples((7, "I", 6), (36,))
    images = check(llava_sdpa, [first, second], method=method)
    assert [image.row for image in images] == [0, 0, 0, 1]


def test_samples_that_end_with_their_image(llava_sdpa):
    check(llava_sdpa, [llava_samples((3, "I"), (2, "I"), (4,))], method="fastv")


@pytest.mark.parametrize("positions", ["original", "contiguous"])
def test_two_cuts(llava_sdpa, positions):
    samples = llava_samples((3, "I", 5), (4,), (2, "I", 6))
    check(llava_sdpa, [samples], method=["divprune", "fastv"], keep=[9, 4], positions=positions)


def test_the_answers_of_packed_samples_are_not_looked_at(llava_sdpa):
    """With labels each image is looked at from before its own sample's answer."""
    samples = llava_samples((3, "I", 5), (2, "I", 6))
    batch = packed([samples])
    labels = [torch.full_like(sample["input_ids"], -100) for sample in samples]
    for one, sample in zip(labels, samples, strict=True):
        one[0, -3:] = sample["input_ids"][0, -3:]
    with tokenprune.apply(llava_sdpa, method="pyramiddrop", keep=5) as handle:
        llava_sdpa(**batch, labels=torch.cat(labels, 1), use_cache=False)
        got = [image.kept.tolist() for image in handle.last.images]
        for sample, kept in zip(samples, got, strict=True):
            prompt = {**sample, **{name: sample[name][:, :-3] for name in ("input_ids", "attention_mask")}}
            llava_sdpa(**prompt)
            assert handle.last.images[0].kept.tolist() == kept


@pytest.mark.parametrize("method", ["divprune", "sparsevlm"])
def test_llava_next(method):
    case = Case("llava_next")
    samples = [case.inputs((3, ("I", 40, 60), 5), seed=1)[0], case.inputs((2, ("I", 64, 64), 4), seed=2)[0]]
    check(case.model, [samples], method=method)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("method", ["zoo-exact", "fastv", "pyramiddrop", "dart"])
def test_qwen_with_a_row_of_positions_for_the_text(method, attention):
    case = Case("qwen", attention)
    rows = [
        [case.inputs((3, ("I", 4, 6), 5), seed=1)[0], case.inputs((2, ("I", 4, 4), 6), seed=2)[0]],
        [case.inputs((9, ("I", 4, 4), 2), seed=3)[0], case.inputs((31,), seed=4)[0]],
    ]
    check(case.model, rows, qwen_places(case.model, rows), method=method)


@pytest.mark.parametrize("method", ["divprune", "fastv"])
def test_qwen_without_it_sees_across_samples_as_stock_does(method):
    """Positions of three axes alone do not say where a sample begins."""
    case = Case("qwen")
    rows = [[case.inputs((3, ("I", 4, 6), 5), seed=1)[0], case.inputs((2, ("I", 4, 4), 6), seed=2)[0]]]
    batch = packed(rows, [[places[1:] for places in qwen_places(case.model, rows)[0]]])
    hint = {"attention_mask": torch.ones_like(batch["input_ids"])}
    with tokenprune.apply(case.model, method=method, keep=5):
        got = case.model(**batch, use_cache=False).logits
        want = case.model(**batch, **hint, use_cache=False).logits
    torch.testing.assert_close(got, want, **CLOSE)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("internvl", "fastv"),
        ("mistral3", "divprune"),
        ("llava_onevision", "divprune"),
        ("idefics3", "zoo-exact"),
        ("aya_vision", "sparsevlm"),
    ],
)
def test_other_families(name, method):
    model = tiny_families.model(name)
    samples = [
        tiny_families.inputs(name, parts, seed=k) for k, parts in enumerate(((3, "I", 5), (2, "I", 6)))
    ]
    check(model, [samples], keep=3, method=method)


@pytest.mark.parametrize("method", ["divprune", "fastv"])
def test_qwen3_vl(method):
    model = tiny_families.model("qwen3_vl")
    made = [((3, "I", 5), 1), ((2, "I", 6), 2)]
    rows = [[tiny_families.inputs("qwen3_vl", parts, seed=seed) for parts, seed in made]]
    cut = {"schedule": {2: 9, 3: 5}, "keep": None} if method == "fastv" else {}
    check(model, rows, qwen_places(model, rows), method=method, **{"keep": 5, **cut})


@pytest.mark.parametrize("use_cache", [False, True])
@pytest.mark.parametrize("blocks", [True, False])
def test_gemma_3_whose_images_see_themselves_both_ways(use_cache, blocks):
    """It makes its masks before there is a cache, so that samples are told apart with one too."""
    model = tiny_families.model("gemma3")
    rows = [
        [
            tiny_families.inputs("gemma3", parts, seed=seed)
            for parts, seed in (((3, "I", 5), 1), ((2, "I", 6), 2))
        ],
        [tiny_families.inputs("gemma3", parts, seed=seed) for parts, seed in (((5, "I", 4), 3), ((25,), 4))],
    ]
    if not blocks:
        for sample in (*rows[0], *rows[1]):
            del sample["token_type_ids"]
    for method in ("zoo-exact", "divprune"):
        check(model, rows, in_batch={"use_cache": use_cache}, method=method)


@pytest.mark.parametrize("positions", ["original", "contiguous"])
@pytest.mark.parametrize("method", ["divprune", "zoo-exact"])
def test_with_a_cache_every_token_sees_those_before_as_in_stock_code(llava, method, positions):
    """Stock code takes positions that start again for a boundary only without a cache."""
    samples = llava_samples((3, "I", 5), (2, "I", 6))
    batch, model = packed([samples]), llava
    with tokenprune.apply(model, method=method, keep=5, positions=positions) as handle:
        got = model(**batch, use_cache=True).logits[0]
        keep = kept_slots(batch["input_ids"][0], handle.last.images)
    rows, places = entered(model, batch)["inputs_embeds"][:, keep], batch["position_ids"][:, keep]
    if positions == "contiguous":
        n = len(samples[0]["input_ids"][0])
        places = torch.cat([torch.arange(int(part.sum())) for part in (keep[:n], keep[n:])])[None]
    want = model(inputs_embeds=rows, position_ids=places, attention_mask=torch.ones(1, rows.shape[1])).logits[
        0
    ]
    torch.testing.assert_close(got[keep], want, **CLOSE)


def test_a_mask_says_that_a_row_is_one_sequence(llava_sdpa):
    """As in stock code: with a mask, positions that start again are no boundary."""
    batch = packed([llava_samples((3, "I", 5), (2, "I", 6))])
    ones = torch.ones_like(batch["input_ids"])
    for method in ("divprune", "fastv"):
        with tokenprune.apply(llava_sdpa, method=method, keep=5):
            got = llava_sdpa(**batch, attention_mask=ones, use_cache=False).logits
            want = llava_sdpa(**batch, use_cache=True).logits
        torch.testing.assert_close(got, want, **CLOSE)


@pytest.mark.parametrize("method", ["divprune", "fastv"])
def test_one_row_of_restarting_positions_is_refused_where_positions_have_three_axes(method):
    model = tiny_models.qwen()
    inputs = tiny_models.qwen_inputs((3, ("I", 2, 2), 5))
    n = inputs["input_ids"].shape[1]
    positions = torch.cat([torch.arange(n - 3), torch.arange(3)])[None]
    call = {name: inputs[name] for name in inputs if name != "attention_mask"}
    layer = 2 if method == "fastv" else None
    with tokenprune.apply(model, method=method, keep=2, layer=layer), torch.no_grad():
        with pytest.raises(tokenprune.UnsupportedCallError, match="two-dimensional position_ids restart"):
            model(**call, position_ids=positions, use_cache=False)
