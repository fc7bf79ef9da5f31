# SPDX-License-Identifier: Apache-2.0
"""Positions of pruned pictures with three axes, as vLLM gets them, against transformers' own."""

import tiny_models as tm
import torch
from tokenprune_vllm.positions import grid_offsets, prompt_positions, split_offsets, with_offsets

# no more frames than columns: behind longer videos vLLM and transformers 5.23 place text differently
ROW = (3, ("I", 4, 6), 2, ("I", 9, 2), 3, ("V", 2, 2, 4), 4)


def test_offsets_survive_half_precision():
    rows = torch.randn(4, 8).bfloat16()
    offsets = torch.tensor([[0, 255, 256], [257, 575, 1023], [4095, 1, 0], [65535, 300, 511]])
    same_rows, same_offsets = split_offsets(with_offsets(rows, offsets))
    assert torch.equal(same_rows, rows) and torch.equal(same_offsets, offsets)


def test_frames_lines_and_columns():
    assert grid_offsets((1, 2, 3)).tolist() == [[0, i, j] for i in range(2) for j in range(3)]
    assert grid_offsets((3, 1, 1), 1.5).tolist() == [[0, 0, 0], [1, 0, 0], [3, 0, 0]]  # 1.5 is cut off to 1


def test_a_prompt_gets_the_positions_transformers_gives_the_rows_that_stay():
    model, inputs = tm.qwen(), tm.qwen_inputs(ROW)
    ids = inputs["input_ids"][0]
    full, delta = model.model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        image_grid_thw=inputs["image_grid_thw"],
        video_grid_thw=inputs["video_grid_thw"],
        second_per_grid_ts=inputs["second_per_grid_ts"],
    )
    pictures = [("I", (1, 4, 6), 1.0), ("I", (1, 9, 2), 1.0), ("V", (2, 2, 4), 2.0)]
    is_visual = (ids == tm.IMAGE) | (ids == tm.VIDEO)
    begins = [int(i) for i in is_visual.nonzero() if not is_visual[i - 1]]
    stays, spans, moves = torch.ones(len(ids), dtype=torch.bool), [], []
    generator = torch.Generator().manual_seed(0)
    gone = 0
    for begin, (_, grid, pace) in zip(begins, pictures, strict=True):
        offsets = grid_offsets(grid, pace)
        kept = torch.randperm(len(offsets), generator=generator)[: len(offsets) // 3].sort().values
        stays[begin : begin + len(offsets)] = False
        stays[begin + kept] = True
        spans.append((begin - gone, len(kept), offsets))
        moves.append((begin - gone + torch.arange(len(kept)), offsets[kept]))
        gone += len(offsets) - len(kept)
    positions, found_delta = prompt_positions(int(stays.sum()), spans)
    for where, offsets in moves:
        positions[:, where] += offsets.mT
    assert torch.equal(positions, full[:, 0, stays])
    assert found_delta + int(stays.sum()) == int(delta[0]) + len(ids)  # where the first new token stands
