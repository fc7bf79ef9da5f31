# SPDX-License-Identifier: Apache-2.0
"""Promise 6: same inputs and seed, same kept tokens, whatever else is in the batch; no global generator."""

import pytest
import torch
from tiny_models import cut_row

import tokenprune


def kept(handle):
    return [image.kept.tolist() for image in handle.last.images]


@pytest.mark.parametrize("method", ["zoo-exact", "zoo-prune", "divprune", "random", "stride"])
def test_the_batch_does_not_matter(llava, inputs, method):
    with tokenprune.apply(llava, method=method, keep=5) as handle:
        llava(**inputs)
        together = kept(handle)
        alone = []
        for row in range(2):
            llava(**cut_row(inputs, row))
            alone += kept(handle)
    assert together == alone


@pytest.mark.parametrize("method", ["zoo-prune", "random"])
def test_the_seed_decides_and_the_global_generator_is_left_alone(llava_sdpa, inputs, method):
    runs = {}
    for seed in (0, 0, 1):
        state = torch.random.get_rng_state()
        with tokenprune.apply(llava_sdpa, method=method, keep=5, seed=seed) as handle:
            llava_sdpa(**inputs)
            again = kept(handle)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert runs.setdefault(seed, again) == again
    assert runs[0] != runs[1] or method == "zoo-prune"  # another bank need not change the ranking


def test_beams_share_their_images_choice(llava_sdpa):
    from tiny_models import llava_inputs

    inputs = llava_inputs((3, "I", 5), (2, "I", 4))
    with tokenprune.apply(llava_sdpa, keep=5) as handle:
        llava_sdpa.generate(**inputs, max_new_tokens=2, do_sample=False)
        plain = kept(handle)
        llava_sdpa.generate(**inputs, max_new_tokens=2, do_sample=False, num_beams=3)
        beams = kept(handle)
    assert beams == [plain[0]] * 3 + [plain[1]] * 3
    assert [image.row for image in handle.last.images] == [0, 1, 2, 3, 4, 5]
