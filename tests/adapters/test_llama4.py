# SPDX-License-Identifier: Apache-2.0
"""Llama 4: attention in chunks, and layers that number their rows by what their cache has seen."""

import pytest
import tiny_families as families
import torch
from family_cases import TOLERANCE, generated
from reference.kept_rows import kept_slots, stock_logits
from tiny_families import BOS, IMAGE, STRUCTURAL, batch

import tokenprune

pytestmark = pytest.mark.skipif(
    "llama4" not in STRUCTURAL, reason="stock transformers 5.24 raises in every call"
)


@pytest.mark.parametrize("keep", [3, 10])
def test_chunks_and_numbers_are_those_of_the_kept_rows(keep):
    """Decoding crosses the border of a chunk of twelve tokens, counted over the kept rows."""
    model, inputs = families.model("llama4"), families.inputs("llama4", (3, "I", 5))
    with tokenprune.apply(model, method="divprune", keep=keep) as handle:
        prefill = model(**inputs).logits[0]
        out, logits = generated(model, inputs, max_new_tokens=14)
    kept = kept_slots(inputs["input_ids"][0], handle.last.images)
    want, n = stock_logits(model, inputs, kept, out.sequences[0, len(kept) :]), int(kept.sum())
    torch.testing.assert_close(prefill[kept], want[:n], **TOLERANCE)
    torch.testing.assert_close(logits[0], want[n - 1 : -1], **TOLERANCE)


def test_stock_numbers_rows_with_padding():
    """Stock code alone: the temperature of a layer depends on the padding in front of a row."""
    model, inputs = families.model("llama4"), families.inputs("llama4")
    alone = families.cut_row("llama4", inputs, 0)
    assert not torch.allclose(model(**inputs).logits[0, -1], model(**alone).logits[0, -1], atol=1e-3)


def test_a_second_turn_that_would_be_padded_inside_is_refused():
    """Rows that keep unequal numbers of tokens, after a cache: the padding would move borders of chunks."""
    model = families.model("llama4_plain")
    first = batch([[BOS, 4, 5], [BOS, 6, 7]])
    out = model(**first, use_cache=True)
    image = [92, *[IMAGE] * 16, 93]
    ids = batch([[*image, 4, 5], [4, 5, 6, 7, 8, *[9] * 13, 10, 11]])["input_ids"]
    later = {
        "input_ids": ids,
        "attention_mask": torch.ones(2, 3 + ids.shape[1], dtype=torch.long),
        "pixel_values": torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2)),
        "past_key_values": out.past_key_values,
    }
    with tokenprune.apply(model, method="divprune", keep=3):
        with pytest.raises(tokenprune.UnsupportedCallError, match="or the borders of its chunks"):
            model(**later)
