# SPDX-License-Identifier: Apache-2.0
"""A smaller picture through the same tower, on a tiny LLaVA."""

import pytest
import tiny_models
import torch
from tokenprune_bench.evaluation.downsample import downsample, grid_side, interpolated_positions


def test_the_grid_is_the_largest_square_within_the_budget():
    assert [grid_side(keep) for keep in (1, 3, 4, 8, 9, 15, 16)] == [1, 1, 2, 2, 3, 3, 4]


def test_placeholders_pixels_and_padding():
    inputs = tiny_models.llava_inputs((3, "I", 5), (2, "I", 4, "I", 3), (6,))
    small = downsample(inputs, tiny_models.IMAGE, 8, 5)
    assert small["pixel_values"].shape == (3, 3, 16, 16)
    assert (small["input_ids"] == tiny_models.IMAGE).sum(1).tolist() == [4, 8, 0]
    for row in range(3):
        before, after = (i["input_ids"][row][i["attention_mask"][row].bool()] for i in (inputs, small))
        assert after[after != tiny_models.IMAGE].tolist() == before[before != tiny_models.IMAGE].tolist()
        assert small["attention_mask"][row].tolist() == sorted(small["attention_mask"][row].tolist())


def test_a_flat_picture_stays_flat_and_the_full_budget_changes_nothing():
    inputs = tiny_models.llava_inputs((3, "I", 5))
    flat = {**inputs, "pixel_values": torch.full((1, 3, 32, 32), 0.25)}
    small = downsample(flat, tiny_models.IMAGE, 8, 4)["pixel_values"]
    torch.testing.assert_close(small, torch.full((1, 3, 16, 16), 0.25))
    whole = downsample(inputs, tiny_models.IMAGE, 8, 16)
    assert all(torch.equal(whole[name], inputs[name]) for name in inputs)


@pytest.mark.parametrize("keep", [4, 9])
@torch.no_grad()
def test_the_model_runs_on_it_and_is_left_as_it_was(keep):
    model = tiny_models.llava()
    inputs = tiny_models.llava_inputs((3, "I", 5), (2, "I", 4))
    before = model(**inputs).logits
    small = downsample(inputs, tiny_models.IMAGE, 8, keep)
    with interpolated_positions(model):
        out = model.generate(**small, max_new_tokens=3, do_sample=False)
        assert torch.isfinite(model(**small).logits).all()
    assert out.shape[1] == small["input_ids"].shape[1] + 3
    assert torch.equal(model(**inputs).logits, before)
