# SPDX-License-Identifier: Apache-2.0
"""Arithmetic of vision towers by hand; test_speed_towers compares it with PyTorch's counts."""

from types import SimpleNamespace as Config

import pytest
from tokenprune_evaluation.tower_costs import evenly_spaced, groups_in_windows, tower_flops

CLIP = Config(
    model_type="clip_vision_model",
    hidden_size=4,
    intermediate_size=10,
    num_hidden_layers=3,
    patch_size=2,
    num_channels=3,
)
TEXT = Config(hidden_size=6)
LLAVA = Config(model_type="llava", vision_config=CLIP, text_config=TEXT, vision_feature_layer=-2)
QWEN = Config(
    model_type="qwen2_5_vl",
    text_config=TEXT,
    vision_config=Config(
        hidden_size=4,
        intermediate_size=10,
        out_hidden_size=6,
        depth=2,
        in_channels=3,
        patch_size=2,
        temporal_patch_size=2,
        spatial_merge_size=2,
        window_size=8,  # 2 x 2 tokens
        fullatt_block_indexes=[1],
    ),
)


def clip_block(rows):
    # queries, keys, values and output 4 x 4 each, two layers 4 x 10; scores and averages rows x rows x 4 each
    return 2 * rows * (4 * 16 + 2 * 40) + 2 * 2 * rows * rows * 4


def test_a_clip_tower_by_hand():
    embedding = 2 * 9 * (3 * 2 * 2) * 4  # 9 patches of 12 values
    projector = {n: 2 * n * (4 * 6 + 6 * 6) for n in (9, 5)}
    assert tower_flops(LLAVA, (3, 3)) == embedding + 3 * clip_block(10) + projector[9]
    cut = embedding + clip_block(10) + 2 * clip_block(6) + projector[5]  # the class token stays
    assert tower_flops(LLAVA, (3, 3), {1: 5}) == cut
    before_all = embedding + 3 * clip_block(6) + projector[5]  # patches are embedded before a cut
    assert tower_flops(LLAVA, (3, 3), {0: 5}) == before_all


def test_tiles_are_towers_of_their_own():
    tiled = Config(**{**vars(LLAVA), "model_type": "llava_next"})
    assert tower_flops(tiled, (3, 3), tiles=5) == 5 * tower_flops(LLAVA, (3, 3))
    assert tower_flops(tiled, (3, 3), {1: 25}, tiles=5) == 5 * tower_flops(LLAVA, (3, 3), {1: 5})


def test_several_layers_are_projected_side_by_side_and_siglip_has_no_class_token():
    several = Config(**{**vars(LLAVA), "vision_feature_layer": [-3, -2]})
    assert tower_flops(several, (3, 3)) - tower_flops(LLAVA, (3, 3)) == 2 * 9 * 4 * 6
    siglip = Config(**{**vars(CLIP), "model_type": "siglip_vision_model"})
    plain = Config(**{**vars(LLAVA), "vision_config": siglip})
    assert tower_flops(LLAVA, (3, 3)) - tower_flops(plain, (3, 3)) == 3 * (clip_block(10) - clip_block(9))


def qwen_block(rows, segments):
    # attention 4 x 4 x 4, a gated layer of three 4 x 10
    return 2 * rows * (4 * 16 + 3 * 40) + 2 * 2 * 4 * sum(n * n for n in segments)


def test_a_qwen_tower_with_windows_by_hand():
    # 2 lines of 3 tokens, of 4 patches each: windows of 4 and 2 tokens, 16 and 8 patches
    embedding = 2 * 24 * (3 * 2 * 2 * 2) * 4
    merger = {n: 2 * n * (16 * 16 + 16 * 6) for n in (6, 3)}
    whole = embedding + qwen_block(24, [16, 8]) + qwen_block(24, [24]) + merger[6]
    assert tower_flops(QWEN, (2, 3)) == whole
    # 3 of 6 in the order of windows are 0, 2, 4: two in the first window, one in the second
    cut = embedding + qwen_block(12, [8, 4]) + qwen_block(12, [12]) + merger[3]
    assert tower_flops(QWEN, (2, 3), {0: 3}) == cut
    late = embedding + qwen_block(24, [16, 8]) + qwen_block(12, [12]) + merger[3]
    assert tower_flops(QWEN, (2, 3), {1: 3}) == late


def test_a_qwen_tower_without_windows_by_hand():
    vision = Config(
        embed_dim=4,
        mlp_ratio=2.5,
        hidden_size=6,
        depth=2,
        in_channels=3,
        patch_size=2,
        temporal_patch_size=2,
        spatial_merge_size=2,
    )
    config = Config(model_type="qwen2_vl", text_config=TEXT, vision_config=vision)
    embedding, merger = 2 * 24 * 24 * 4, 2 * 6 * (16 * 16 + 16 * 6)
    assert tower_flops(config, (2, 3)) == embedding + 2 * clip_block(24) + merger


def test_the_order_of_tokens_in_windows():
    assert groups_in_windows(2, 3, 2) == [(0, 0), (0, 1), (0, 3), (0, 4), (1, 2), (1, 5)]
    assert groups_in_windows(3, 2, 2) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 4), (1, 5)]
    assert groups_in_windows(2, 2, None) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert evenly_spaced(10, 4) == [0, 2, 5, 7]
    assert evenly_spaced(3, 3) == [0, 1, 2]


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="formulas of towers hold for llava, .*; this model is a 'gemma3'"):
        tower_flops(Config(model_type="gemma3"), (3, 3))
    other = Config(**{**vars(LLAVA), "vision_config": Config(model_type="pixtral")})
    with pytest.raises(ValueError, match="hold for clip_vision_model, .*; this one is a 'pixtral'"):
        tower_flops(other, (3, 3))
