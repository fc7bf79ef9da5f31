# SPDX-License-Identifier: Apache-2.0
"""The checks split a batch into rows and join them again, in every format of pictures."""

import pytest
import tiny_families as families
import torch
from family_cases import ONE_ROW
from tiny_families import CLASSES, STRUCTURAL, cut_row
from tokenprune_adapters.transformers.promises.prompts import joined, rows_of

import tokenprune

ROWS = (3, "I", 5), (2, "I", 4, "I", 3)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in (*CLASSES, *STRUCTURAL) if name not in ONE_ROW])
def test_rows_of_a_batch_and_the_batch_of_these_rows(name):
    model, inputs = families.model(name), families.inputs(name, *ROWS)
    adapter = tokenprune.default_registry().adapter_for(model)(model)
    rows = rows_of(adapter, inputs)
    if name not in ("smolvlm", "idefics3"):  # their rows stay as long as that with the most pictures
        for number, row in enumerate(rows):
            assert_same(row, cut_row(name, inputs, number))
    assert_same(joined(rows), inputs)
