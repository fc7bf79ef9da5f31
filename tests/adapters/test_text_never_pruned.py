# SPDX-License-Identifier: Apache-2.0
"""Promise 3: text is never pruned, every image keeps at least one token."""

import pytest
import torch
from cache_names import cache_of
from reference import llava_by_hand
from tiny_models import llava_inputs

import tokenprune


@pytest.mark.parametrize("budget", [{"keep": 1}, {"keep_ratio": 1e-6}])
def test_every_image_keeps_a_token_and_all_text_stays(llava, budget):
    inputs = llava_inputs((3, "I", "I", 5), (1, "I", 7))
    with tokenprune.apply(llava, method="divprune", **budget) as handle:
        cache = cache_of(llava(**inputs, use_cache=True))
        assert [(i.row, i.n_before, i.n_after) for i in handle.last.images] == [
            (0, 16, 1),
            (0, 16, 1),
            (1, 16, 1),
        ]
    text = (inputs["input_ids"] != 90) & inputs["attention_mask"].bool()
    assert int(text.sum(1).max()) + 2 == cache.layers[0].keys.shape[2]


def test_text_only_calls_are_untouched(llava):
    inputs = llava_inputs((6,), (3,))
    before = llava.generate(**inputs, max_new_tokens=6, do_sample=False)
    with tokenprune.apply(llava, keep=1) as handle:
        assert torch.equal(llava.generate(**inputs, max_new_tokens=6, do_sample=False), before)
        assert handle.last is None


def test_adjacent_images_are_divided_rightly(llava):
    inputs = llava_inputs((3, "I", "I", 5))
    method = tokenprune.method("zoo-exact")
    want = llava_by_hand.kept_slots(llava, method, inputs["pixel_values"], 5)
    with tokenprune.apply(llava, method=method, keep=5) as handle:
        llava(**inputs)
        assert [i.kept.tolist() for i in handle.last.images] == [w.tolist() for w in want]
