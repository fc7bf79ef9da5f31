# SPDX-License-Identifier: Apache-2.0
"""A picture whose rows are no numbers is named by every method, and the next call is answered."""

import math

import pytest
import torch
from model_cases import Case
from tiny_models import llava_inputs, qwen_inputs

import tokenprune

INPUTS = {
    "llava": lambda: llava_inputs((3, "I", 5), (2, "I", 6)),
    "qwen": lambda: qwen_inputs((3, ("I", 4, 4), 5), (2, ("I", 4, 4), 6)),
}


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("llava", "zoo-exact"),
        ("llava", "visionzip"),
        ("llava", "random"),
        ("llava", "fastv"),
        ("qwen", "divprune"),
        ("qwen", "pool"),
        ("qwen", "stride"),
        ("qwen", "pyramiddrop"),
    ],
)
def test_a_picture_whose_rows_are_no_numbers_is_named_and_the_next_is_answered(family, method, value):
    model, good = Case(family).model, INPUTS[family]()
    bad = dict(good)
    bad["pixel_values"] = good["pixel_values"].clone()
    bad["pixel_values"][-1] = value
    with tokenprune.apply(model, method=method, keep=3) as handle:
        with pytest.raises(tokenprune.InputError, match=r"the rows of image 1 \(of 2 that are pruned\)"):
            model(**bad)
        assert torch.isfinite(model(**good).logits).all()
        assert [image.n_after for image in handle.last.images] == [3, 3]
