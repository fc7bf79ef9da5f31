# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from reference import golden
from reference import sparsevlm as slow
from tokenprune_plugins.raters import RaterScorer, rater_rows, rotary_envelope

import tokenprune


def rotary_of(head_dim, base=10000.0):
    def rotary(positions):
        angles = positions.unsqueeze(-1) * base ** -(torch.arange(0, head_dim, 2) / head_dim)
        return torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()

    return rotary


def test_golden_raters():
    vectors = golden.load("sparsevlm_v1_custom_n64")
    start, n = int(vectors["v_token_start"]), int(vectors["n_visual"])
    text, image = vectors["embeds"][0, start + n :], vectors["embeds"][0, start : start + n]
    assert rater_rows(text, image).tolist() == vectors["rater_idx"].tolist() == slow.raters(text, image)


def test_golden_rotary_envelope():
    vectors = golden.load("sparsevlm_v2_rope_weights")
    head_dim, base = int(vectors["head_dim"]), float(vectors["base"])
    turned = rotary_of(head_dim, base)(torch.arange(40))
    torch.testing.assert_close(rotary_envelope(turned, turned), vectors["rope_weights"], rtol=1e-5, atol=1e-5)
    assert slow.envelope(7, 30, head_dim, base) == pytest.approx(
        float(vectors["rope_weights"][7, 30]), rel=1e-5
    )


def test_raters_by_hand():
    # both image rows look like text rows 0 and 2, never like 1 and 3
    text = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    assert rater_rows(text, torch.tensor([[1.0, 1.0], [2.0, 2.0]])).tolist() == [0, 2]


def test_where_no_text_row_stands_out_all_rate_and_without_text_the_prompts_last_row_does():
    assert rater_rows(torch.ones(1, 3), torch.ones(4, 3)).tolist() == [0]
    assert rater_rows(torch.zeros(2, 3), torch.ones(4, 3)).tolist() == [0, 1]
    assert rater_rows(torch.ones(0, 3), torch.ones(4, 3)).tolist() == [-1]


@pytest.mark.parametrize(("head_dim", "n"), [(16, 576), (128, 3000)])
def test_far_apart_the_envelope_is_negative_as_in_the_equation(head_dim, n):
    rotary = rotary_of(head_dim)
    (row,) = rotary_envelope(rotary(torch.tensor([n])), rotary(torch.arange(n)))
    wanted = torch.tensor([slow.envelope(n, j, head_dim, 10000.0) for j in range(n)])
    torch.testing.assert_close(row, wanted, rtol=1e-4, atol=2e-3)  # angles of thousands, in float32
    assert row.min() < -0.5


def plus_tokens(seed=0, heads=16, n=40, t=9, width=12):
    generator = torch.Generator().manual_seed(seed)
    attention = torch.rand(heads, t, n, generator=generator)
    signals = {
        "text_embeds": torch.randn(t, width, generator=generator),
        "input_features": torch.randn(n, width, generator=generator),
        "attention_rows": lambda layer, rows: attention[:, rows],
        "position_ids": torch.arange(5, 5 + n),
        "text_position_ids": torch.arange(5 + n, 5 + n + t),
        "rotary": rotary_of(16),
    }
    return tokenprune.VisualTokens(torch.randn(n, width, generator=generator), signals), attention


@pytest.mark.parametrize("seed", range(3))
def test_plus_scores_equal_the_slow_reference(seed):
    tokens, attention = plus_tokens(seed)
    rows = slow.raters(tokens.signal("text_embeds"), tokens.signal("input_features"))
    weights = [[slow.envelope(45 + r, 5 + j, 16, 10000.0) for j in range(40)] for r in rows]
    wanted = torch.from_numpy(slow.plus_scores(attention[:, rows], weights, 14)).float()
    chosen = tokenprune.method("sparsevlm-plus").select(tokens, keep=12, layer=3)
    torch.testing.assert_close(chosen.scores, wanted, rtol=1e-5, atol=0)
    assert chosen.features is None and len(chosen) == 12


def test_with_fewer_heads_than_14_all_count():
    tokens, attention = plus_tokens(heads=4)
    rows = rater_rows(tokens.signal("text_embeds"), tokens.signal("input_features"))
    scores = RaterScorer(n_heads=14).score(tokens.before_layer(3))
    torch.testing.assert_close(scores, attention[:, rows].mean((0, 1)))


def test_positions_of_several_axes_are_left_to_the_models_rotary_embedding():
    tokens, _ = plus_tokens()
    signals = {name: tokens.signal(name) for name in tokens.provides}
    for name in ("position_ids", "text_position_ids"):
        signals[name] = torch.stack([torch.zeros_like(signals[name]), signals[name]])
    signals["rotary"] = lambda positions: rotary_of(16)(positions[1])
    of_axes = tokenprune.VisualTokens(tokens.features, signals, layer=3)
    scorer = RaterScorer(undo_rotary=True)
    assert torch.equal(scorer.score(of_axes), scorer.score(tokens.before_layer(3)))
