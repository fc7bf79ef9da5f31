# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from reference import golden
from tokenprune_plugins.recycle import RecycleReducer

import tokenprune


def stage_of(vectors, k):
    """Tokens of stage k of a golden file, the layer before which is cut, and what the official code left."""
    start, n = int(vectors["v_token_start"]), int(vectors["n_visual"])
    attention = vectors[f"s{k}_attn_text2vis"]
    stop = start + attention.shape[-1]
    asked = []

    def attention_rows(layer, rows):
        asked.append((layer, rows.tolist()))
        return attention

    signals = {
        "text_embeds": vectors["embeds"][0, start + n :],
        "input_features": vectors["embeds"][0, start : start + n],
        "attention_rows": attention_rows,
    }
    tokens = tokenprune.VisualTokens(vectors[f"s{k}_hidden_in"][0, start:stop], signals)
    rows = vectors[f"s{k}_hidden_out"][0, start : start + int(vectors[f"s{k}_v_token_num_out"])]
    return tokens, asked, int(vectors[f"s{k}_layer"]) + 1, rows


@pytest.mark.parametrize("k", [0, 1, 2])
def test_golden_picks_and_rows_of_each_stage(k):
    vectors = golden.load("sparsevlm_v1_custom_n64")
    tokens, asked, layer, rows = stage_of(vectors, k)
    chosen = tokenprune.method("sparsevlm").select(tokens, keep=len(rows), layer=layer)
    assert asked == [(int(vectors[f"s{k}_layer"]), vectors["rater_idx"].tolist())]
    torch.testing.assert_close(chosen.scores, vectors[f"s{k}_visual_scores"], rtol=1e-5, atol=1e-8)
    n_merged = int(vectors[f"s{k}_n_merged"])
    assert chosen.indices.tolist() == [*vectors[f"s{k}_kept_visual_idx"].tolist(), *[-1] * n_merged]
    torch.testing.assert_close(chosen.features, rows, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        chosen.features[-n_merged:], vectors[f"s{k}_merged_tokens"][0], rtol=0, atol=1e-5
    )


PUBLISHED = {
    "sparsevlm": {192: (309, 204, 113), 128: (312, 117, 39), 96: (249, 55, 27), 64: (82, 32, 18)},
    "sparsevlm-plus": {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)},
}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("budget", [192, 128, 96, 64])
def test_published_budgets_leave_the_official_codes_rows(name, budget):
    cuts = tokenprune.method(name).schedule.cuts(budget, 576, 32, "paper")
    assert cuts == dict(zip((3, 7, 16), PUBLISHED[name][budget], strict=True))


def test_the_nominal_64_is_82_rows_a_layer_on_average():
    from tokenprune.schedule import mean_rows

    cuts = tokenprune.method("sparsevlm").schedule.cuts(64, 576, 32, "paper")
    assert mean_rows(cuts, 576, 32) == pytest.approx(82.25)


def test_published_rows_are_split_into_kept_and_recycled_as_in_the_official_code():
    kept_lists = {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)}
    for budget, kept in kept_lists.items():
        left = 576
        for rows, wanted in zip(PUBLISHED["sparsevlm"][budget], kept, strict=True):
            assert RecycleReducer().n_selected(rows, left) == wanted
            left = rows


@pytest.mark.parametrize("name", PUBLISHED)
def test_rows_mean_rows_after_the_last_cut_recycled_ones_counted(name):
    for n in (144, 576, 1156):
        for keep in (8, 16, 64, n // 2):
            cuts = tokenprune.method(name).schedule.cuts(keep, n, 32, "rows")
            rows = list(cuts.values())
            assert rows[-1] == keep and rows == sorted(rows, reverse=True) and rows[0] <= n


def test_lists_are_scaled_to_the_image_and_layers_to_the_model():
    # 144 = 576 / 4 at nominal 16: 66 / 4 = 16.5 -> 16, 34 / 4 = 8.5 -> 8, 20 / 4 = 5
    plus = tokenprune.method("sparsevlm-plus").schedule
    assert plus.cuts(16, 144, 12, "paper") == {1: 16, 3: 8, 6: 5}


def test_budgets_between_the_lists_are_interpolated():
    # halfway between 64 and 96: (66 + 246) / 2, (34 + 54) / 2, (20 + 28) / 2
    plus = tokenprune.method("sparsevlm-plus").schedule
    assert plus.cuts(80, 576, 32, "paper") == {3: 156, 7: 44, 16: 24}
    assert plus.cuts(32, 576, 32, "paper") == {3: 33, 7: 17, 16: 10}


def test_one_cut_of_the_documented_call():
    from tokenprune.testing import example_tokens

    chosen = tokenprune.method("sparsevlm").select(example_tokens(82), keep=30, layer=7)
    assert len(chosen) == 30
    assert (chosen.indices == -1).sum() == 2  # 28 of 82 chosen: 54 dropped, 17 recycled into 2


@pytest.mark.parametrize("name", ["sparsevlm", "sparsevlm-plus"])
@pytest.mark.parametrize("layers", [(7,), (3, 7), (2, 3, 7, 16), ()])
def test_lists_for_three_cuts_take_three_layers(name, layers):
    schedule = tokenprune.method(name).schedule
    with pytest.raises(tokenprune.OptionError, match=r"rows for 3 cuts, .* pass 3 layers, such as layer"):
        schedule.at(*layers).rows_at(64, 576)
    assert schedule.at(2, 5, 9).boundaries(12) == (2, 5, 9)
