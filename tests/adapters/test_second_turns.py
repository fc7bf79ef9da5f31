# SPDX-License-Identifier: Apache-2.0
"""A second turn with a new image on a pruned cache, in plain calls.

See `test_generic_families` for second turns with `generate`.
"""

import pytest
import tiny_families as families
import torch
from cache_names import CACHE, cache_of
from family_cases import BATCH_FAILS, KEEP, TOLERANCE, WITHOUT_REFERENCE, generated
from reference.kept_rows import entered, kept_slots, stock_logits
from tiny_families import CLASSES, IMAGE, PER_TOKEN, STRUCTURAL, cut_images, cut_row, join_images

import tokenprune

ROWS = ((5, "I", 8, "I", 3), (2, "I", 8, "I", 3))
TEXT = 5  # tokens of the second turn before its image


def axes_of(name):
    model = families.model(name)
    return tokenprune.default_registry().adapter_for(model)(model).position_axes


FAMILIES = [
    name
    for name in (*CLASSES, *STRUCTURAL)
    # PaliGemma's prompt, in which all tokens see each other, cannot be added to
    if name not in (*WITHOUT_REFERENCE, *BATCH_FAILS, "paligemma")
]
# image tokens attend to each other, and stock code answers two calls otherwise than one of everything
BLOCKS = ("gemma3", "gemma4", "gemma4_unified", "molmo2")
THREE_AXES = [name for name in (*CLASSES, *STRUCTURAL) if axes_of(name) == 3]


def start_of_second(whole):
    """Where the second turn of a conversation starts, alike in each row."""
    (slots,) = torch.nonzero(whole["input_ids"][0] == IMAGE, as_tuple=True)
    return int(slots[len(slots) // 2]) - TEXT


def images_of(name, whole, turn):
    """The arguments of the first or second image of each row."""
    return join_images(
        name,
        [
            cut_images(name, whole, 2 * row + turn, 2 * row + turn + 1)
            for row in range(len(whole["input_ids"]))
        ],
    )


def two_turns(name, whole, handle=None):
    """Logits (B, L, V) of the second turn of a conversation, and the reports of both."""
    model, start = families.model(name), start_of_second(whole)
    tokens = {key: whole[key] for key in PER_TOKEN if key in whole}
    if axes_of(name) == 3:
        tokens["position_ids"] = whole["position_ids"]
    reports, cache = [], {}
    for turn, part in enumerate((slice(0, start), slice(start, None))):
        inputs = {key: value[..., part] for key, value in tokens.items()}
        inputs["attention_mask"] = whole["attention_mask"][:, : part.stop]
        out = model(**inputs, **images_of(name, whole, turn), **cache, use_cache=True)
        cache = {CACHE: cache_of(out)}
        reports.append(handle and handle.last)
    return out.logits, reports


def conversation(name, *rows):
    whole = families.inputs(name, *rows)
    if axes_of(name) == 3:
        whole["position_ids"] = entered(families.model(name), whole)["position_ids"][-3:]
    return whole


def kept_in_two_turns(name, whole):
    """Logits of the second turn of a pruned conversation of one row, and which slots are kept."""
    with tokenprune.apply(families.model(name), method="divprune", keep=KEEP) as handle:
        logits, reports = two_turns(name, whole, handle)
    images = [image for report in reports for image in report.images]
    assert [image.n_after for image in images] == [KEEP, KEEP]
    keep = kept_slots(whole["input_ids"][0], images)
    return logits[0, keep[start_of_second(whole) :]], keep


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in BLOCKS])
def test_a_second_turn_equals_one_stock_call_fed_the_kept_rows(name):
    whole = conversation(name, ROWS[0])
    got, keep = kept_in_two_turns(name, whole)
    stock = {key: value for key, value in whole.items() if key != "position_ids"}
    want = stock_logits(families.model(name), stock, keep, torch.zeros(0, dtype=torch.long))
    torch.testing.assert_close(got, want[-len(got) :], **TOLERANCE)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name in BLOCKS])
def test_a_second_turn_equals_two_stock_calls_fed_the_kept_rows(name):
    """Stock code of these families, not pruned, answers one call otherwise."""
    whole, model = conversation(name, ROWS[0]), families.model(name)
    got, keep = kept_in_two_turns(name, whole)
    start, cache, mask = start_of_second(whole), {}, keep[:0].long()[None]
    for turn, part in enumerate((slice(0, start), slice(start, None))):
        inputs = {key: whole[key][:, part] for key in PER_TOKEN if key in whole}
        rows = entered(model, inputs | images_of(name, whole, turn))["inputs_embeds"]
        kinds = {key: inputs[key][:, keep[part]] for key in inputs if key.endswith("type_ids")}
        mask = torch.nn.functional.pad(mask, (0, int(keep[part].sum())), value=1)
        out = model(inputs_embeds=rows[:, keep[part]], attention_mask=mask, **kinds, **cache, use_cache=True)
        cache = {CACHE: cache_of(out)}
    torch.testing.assert_close(got, out.logits[0], **TOLERANCE)
    plain, _ = two_turns(name, whole)
    assert not torch.allclose(plain, model(**whole).logits[:, start:], **TOLERANCE)


@pytest.mark.parametrize("name", THREE_AXES)
def test_a_padded_batch_equals_each_row_alone_with_positions_of_three_axes(name):
    whole = conversation(name, *ROWS)
    with tokenprune.apply(families.model(name), method="divprune", keep=KEEP):
        together, _ = two_turns(name, whole)
        for row in range(2):
            alone = cut_row(name, whole, row)
            real = whole["attention_mask"][row].bool()
            alone["position_ids"] = whole["position_ids"][:, row : row + 1, real]
            torch.testing.assert_close(together[row], two_turns(name, alone)[0][0], **TOLERANCE)


@pytest.mark.parametrize("name", THREE_AXES)
def test_stock_generate_takes_no_new_image_where_positions_have_three_axes(name):
    """Stock code alone raises an error or places the image wrongly; plain calls answer as one call does."""
    whole, model = conversation(name, ROWS[0]), families.model(name)
    start = start_of_second(whole)
    positions, tokens = whole.pop("position_ids"), {key: whole[key] for key in PER_TOKEN if key in whole}
    options = {"max_new_tokens": 1, "use_cache": True}
    want = generated(model, whole, **options)[1][:, 0]
    first = {key: value[:, :start] for key, value in tokens.items()} | images_of(name, whole, 0)
    for images in (images_of(name, whole, 1), {k: v for k, v in whole.items() if k not in PER_TOKEN}):
        out, _ = generated(model, first, **options)
        try:
            got = generated(model, {**tokens, **images}, **options, **{CACHE: cache_of(out)})[1][:, 0]
        except (ValueError, RuntimeError, IndexError, StopIteration):
            continue
        assert not torch.allclose(got, want, **TOLERANCE)
    plain = two_turns(name, {**whole, "position_ids": positions})[0]
    torch.testing.assert_close(plain, model(**whole).logits[:, start:], **TOLERANCE)
