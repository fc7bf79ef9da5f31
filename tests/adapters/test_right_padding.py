# SPDX-License-Identifier: Apache-2.0
"""A right-padded row that ends with its image: methods look from its last real token, not from padding."""

import pytest
import tiny_families
import tiny_models
import torch
from model_cases import Case

import tokenprune

IN_DECODER = ("fastv", "pyramiddrop", "sparsevlm", "sparsevlm-plus", "dart")
SHARED = ("input_ids", "attention_mask", "mm_token_type_ids")


def padded_right(row, batch):
    """Row 0 of a batch, padded to its width on the right, above the other rows as they stand."""
    pad = batch["input_ids"].shape[1] - row["input_ids"].shape[1]
    changed = {
        name: torch.cat([torch.nn.functional.pad(row[name], (0, pad)), batch[name][1:]])
        for name in SHARED
        if name in batch
    }
    return {**batch, **changed}


def check(model, row, batch, method, **options):
    """Row 0 keeps and answers the same alone and in the right-padded batch."""
    last = row["input_ids"].shape[1] - 1
    with tokenprune.apply(model, method=method, keep=5, **options) as handle:
        alone, kept = model(**row).logits[0, -1], handle.last.images[0].kept
        padded = model(**padded_right(row, batch)).logits[0, last]
        torch.testing.assert_close(padded, alone, atol=2e-5, rtol=1e-4)
        assert torch.equal(handle.last.images[0].kept, kept)


@pytest.mark.parametrize("method", [*IN_DECODER, "zoo-exact"])
def test_llava_rows_that_end_with_their_image(method):
    batch = tiny_models.llava_inputs((3, "I"), (2, "I", 9))
    check(tiny_models.llava(), tiny_models.cut_row(batch, 0), batch, method)


@pytest.mark.parametrize("method", ["fastv", "sparsevlm"])
def test_rows_with_text_after_their_image(method):
    batch = tiny_models.llava_inputs((3, "I", 2), (2, "I", 9))
    check(tiny_models.llava(), tiny_models.cut_row(batch, 0), batch, method)


@pytest.mark.parametrize("method", ["fastv", "pyramiddrop"])
def test_internvl_rows_that_end_with_their_image(method):
    model = tiny_families.model("internvl")
    batch = tiny_families.inputs("internvl", (3, "I"), (2, "I", 9))
    row = tiny_families.inputs("internvl", (3, "I"))
    real = batch["attention_mask"][0].bool()
    row = {**row, "input_ids": batch["input_ids"][:1, real], "pixel_values": batch["pixel_values"][:1]}
    check(model, row, batch, method)


@pytest.mark.parametrize("method", ["fastv", "sparsevlm"])
def test_qwen_rows_that_end_with_their_image(method):
    case = Case("qwen")
    batch = case.inputs((3, ("I", 4, 6)), (2, ("I", 4, 6), 9))
    check(case.model, case.alone(batch, 0)[0], batch[0], method)


def test_two_cuts():
    batch = tiny_models.llava_inputs((3, "I"), (2, "I", 9))
    row, model = tiny_models.cut_row(batch, 0), tiny_models.llava()
    last = row["input_ids"].shape[1] - 1
    with tokenprune.apply(model, method=["divprune", "fastv"], keep=[9, 4]) as handle:
        alone, kept = model(**row).logits[0, -1], handle.last.images[0].kept
        padded = model(**padded_right(row, batch)).logits[0, last]
        torch.testing.assert_close(padded, alone, atol=2e-5, rtol=1e-4)
        assert torch.equal(handle.last.images[0].kept, kept)


@pytest.mark.parametrize("method", ["fastv", "zoo-exact"])
def test_a_row_that_the_mask_hides_completely_is_left_whole(method):
    batch = tiny_models.llava_inputs((3, "I", 4), (3, "I", 4))
    batch["attention_mask"][0] = 0
    with tokenprune.apply(tiny_models.llava(), method=method, keep=5) as handle:
        handle._model()(**batch)
        hidden, seen = handle.last.images
        assert (hidden.n_after, seen.n_after) == (16, 5)
