# SPDX-License-Identifier: Apache-2.0
"""The promises on the families beyond the main three: whole on Qwen3-VL, InternVL and Gemma 3."""

import pytest
import tiny_families as families
import torch
from cache_names import CACHE, cache_of
from family_cases import (
    BATCH_FAILS,
    BEAMS_FAIL,
    COUNTS_PADDING,
    DEEPSTACK,
    KEEP,
    ONE_ROW,
    OPTIONS,
    REPEATS_WRONGLY,
    SMOLVLM_FAILS,
    STATIC_FAILS,
    TOLERANCE,
    WHOLE,
    generated,
)
from tiny_families import CLASSES, IMAGE, STRUCTURAL, cut_row

import tokenprune


def able(name):
    """Calls of `apply` this family can be given: every method on the whole ones, else one of a kind."""
    model, calls = families.model(name), []
    some = tokenprune.list_methods() if name in WHOLE else ("divprune", "zoo-exact", "sparsevlm")
    for method in some:
        call = {"method": method, "keep": KEEP}
        if name in DEEPSTACK and tokenprune.method(method).stage == "decoder":
            call = {"method": method, "schedule": {2: 9, 3: KEEP}}
        try:
            tokenprune.apply(model, **call).remove()
        except tokenprune.IncompatibleError:
            continue
        calls.append((name, call))
    return calls


def axes_of(name):
    """Axes of a family's positions."""
    model = families.model(name)
    return tokenprune.default_registry().adapter_for(model)(model).position_axes


FAMILIES = [name for name in (*CLASSES, *STRUCTURAL) if name not in (*ONE_ROW, *BATCH_FAILS, *COUNTS_PADDING)]
ONE_AXIS = [name for name in FAMILIES if name in STRUCTURAL and axes_of(name) == 1]
PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
CALLS = [one for name in FAMILIES for one in able(name)]
ids = [f"{name}-{call['method']}" for name, call in CALLS]


@pytest.mark.parametrize(("name", "call"), CALLS, ids=ids)
def test_a_padded_batch_equals_each_row_alone(name, call):
    model, inputs = families.model(name), families.inputs(name)
    with tokenprune.apply(model, **call) as handle:
        together, logits = generated(model, inputs)
        images = handle.last.images
        if name not in STATIC_FAILS:
            static, _ = generated(model, inputs, cache_implementation="static")
            assert torch.equal(static.sequences, together.sequences)
        alone_images = []
        for row in range(3):
            alone, want = generated(model, cut_row(name, inputs, row))
            torch.testing.assert_close(logits[row], want[0], **TOLERANCE)
            alone_images += handle.last.images if row < 2 else ()
    assert torch.equal(together.sequences[:, : -OPTIONS["max_new_tokens"]], inputs["input_ids"])
    assert [(i.row, i.n_before, i.n_after) for i in images] == [
        (row, families.tokens_of(name), KEEP) for row in (0, 1, 1)
    ]
    for one, other in zip(images, alone_images, strict=True):
        assert one.kept.tolist() == other.kept.tolist()
    plain, _ = generated(model, inputs)
    assert not torch.equal(plain.logits[0], together.logits[0])


@pytest.mark.parametrize(("name", "call"), CALLS, ids=ids)
def test_keep_all_and_removal_are_bit_identical(name, call):
    model, inputs = families.model(name), families.inputs(name)
    call = {"method": call["method"], "keep": 1000}
    if name in DEEPSTACK and tokenprune.method(call["method"]).stage == "decoder":
        call = {"method": call["method"], "schedule": {2: 1000, 3: 1000}}
    before = [model(**inputs).logits, generated(model, inputs)[1]]
    with tokenprune.apply(model, **call):
        during = [model(**inputs).logits, generated(model, inputs)[1]]
    after = [model(**inputs).logits, generated(model, inputs)[1]]
    for other in (during, after):
        assert all(torch.equal(a, b) for a, b in zip(before, other, strict=True))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in BEAMS_FAIL])
def test_beams_equal_those_of_the_row_alone(name):
    if REPEATS_WRONGLY:
        pytest.skip("mended in transformers 5.20")
    model, inputs = families.model(name), families.inputs(name)
    options = {"num_beams": 3, "output_logits": False}
    with tokenprune.apply(model, method="divprune", keep=KEEP):
        together = model.generate(**inputs, **{**OPTIONS, **options}).sequences[:, -5:]
        for row in range(2):
            alone = model.generate(**cut_row(name, inputs, row), **{**OPTIONS, **options}).sequences
            assert together[row].tolist() == alone[0, -5:].tolist()


@pytest.mark.parametrize("name", ["internvl", "gemma3", "gemma4_e", "gemma4", "mistral3", *ONE_AXIS])
def test_a_second_turn_with_a_new_image_on_the_same_cache(name):
    model = families.model(name)
    first, more = (
        families.inputs(name, (5, "I", 5), (3, "I", 2)),
        families.inputs(name, (2, "I", 3), (2, "I", 3)),
    )

    def two_turns(one, two):
        out, _ = generated(model, one)
        ids = torch.cat([out.sequences, two["input_ids"][:, 1:]], 1)
        later = {key: value for key, value in two.items() if key not in PER_TOKEN}
        added = ids.shape[1] - one["input_ids"].shape[1]
        later["attention_mask"] = torch.nn.functional.pad(one["attention_mask"], (0, added), value=1)
        if name == "gemma3":
            later["token_type_ids"] = (ids == IMAGE).long()
        if "mm_token_type_ids" in two:
            later["mm_token_type_ids"] = (ids == IMAGE).long()
        return generated(model, {"input_ids": ids, **later}, **{CACHE: cache_of(out)})[1]

    with tokenprune.apply(model, method="divprune", keep=KEEP):
        together = two_turns(first, more)
        for row in range(2):
            alone = two_turns(cut_row(name, first, row), cut_row(name, more, row))
            torch.testing.assert_close(together[row, :1], alone[0, :1], **TOLERANCE)


def test_stock_smolvlm_takes_only_multiples_of_its_patch_size():
    """Stock code alone: between 5.17 and 5.23 its merger views rows in pieces of the patch size, here 8."""
    model, inputs = families.model("smolvlm"), families.inputs("smolvlm", (3, "I", 5))
    if SMOLVLM_FAILS:
        with pytest.raises(RuntimeError, match="invalid for input of size"):
            model(**inputs)
    else:
        assert model(**inputs).logits.shape[1] == inputs["input_ids"].shape[1]


def test_stock_gemma_4_with_a_static_cache():
    """Stock code alone: before 5.23 an image longer than the window is answered differently with one."""
    model, inputs = families.model("gemma4"), families.inputs("gemma4", (3, "I", 5))
    dynamic, static = (
        generated(model, inputs, **more)[1] for more in ({}, {"cache_implementation": "static"})
    )
    assert torch.allclose(dynamic, static, atol=1e-3) is ("gemma4" not in STATIC_FAILS)
