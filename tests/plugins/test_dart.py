# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import golden
from reference.dart import dart

import tokenprune


def tokens_of(states, keys, start, n):
    """An image at start ... start + n of a sequence, text after it; states (L, D), keys (H, L, d)."""
    signals = {
        "keys": lambda layer: keys[:, start : start + n],
        "text_keys": lambda layer: keys[:, start + n :],
        "text_hidden": lambda layer: states[start + n :],
        "final_norm": lambda rows: rows,
        "position_ids": torch.arange(start, start + n),
        "text_position_ids": torch.arange(start + n, len(states)),
    }
    return tokenprune.VisualTokens(states[start : start + n], signals)


def golden_tokens():
    vectors = golden.load("dart_llava_n64_ratio0.5")
    start, n = int(vectors["image_start"]), int(vectors["image_len"])
    return vectors, start, tokens_of(vectors["states_normed"][0], vectors["key_states"][0], start, n)


def test_golden_picks_in_the_official_visiting_order():
    vectors, start, tokens = golden_tokens()
    keep = int(vectors["n_retained"])
    chosen = tokenprune.method("dart", visit="set").select(tokens, keep=keep, layer=2)
    assert (start + chosen.indices).tolist() == vectors["retained_sorted"].tolist()
    assert (start + chosen.order[:4]).tolist() == vectors["image_pivots"].tolist()


def test_golden_visiting_order_is_that_of_a_set():
    vectors, _, _ = golden_tokens()
    pivots = [*vectors["image_pivots"].tolist(), *vectors["text_pivots"].tolist()]
    assert list(set(pivots)) == vectors["pivot_visit_order"].tolist()


def test_by_hand():
    # image rows at 0, 90, 180, 270 and 45 degrees; pivots: slot 0 (largest key) and a text row at 90 degrees
    radians = torch.tensor([0.0, 90.0, 180.0, 270.0, 45.0, 90.0]).deg2rad()
    states = torch.stack([radians.cos(), radians.sin()], -1)
    keys = torch.tensor([9.0, 1.0, 1.0, 1.0, 1.0, 5.0]).view(1, 6, 1)
    method = tokenprune.method("dart", n_image_pivots=1, n_text_pivots=1)
    # 2 after the pivot: least like slot 0 is 2, least like the text row is 3
    assert method.select(tokens_of(states, keys, 0, 5), keep=3, layer=2).order.tolist() == [0, 2, 3]
    # 3 after the pivot: the remainder goes to the first pivot: 2, then 1 (before 3, also at cosine 0); then 3
    assert method.select(tokens_of(states, keys, 0, 5), keep=4, layer=2).order.tolist() == [0, 2, 1, 3]


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(5, 40), t=st.integers(4, 12), data=st.data())
def test_equals_the_slow_reference(seed, n, t, data):
    keep = data.draw(st.integers(1, n - 1))
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(3 + n + t, 8, generator=generator)
    keys = torch.randn(2, 3 + n + t, 4, generator=generator)
    chosen = tokenprune.method("dart").select(tokens_of(states, keys, 3, n), keep, layer=2)
    image, text = slice(3, 3 + n), slice(3 + n, None)
    assert chosen.order.tolist() == dart(states[image], states[text], keys[:, image], keys[:, text], keep)


def test_without_text_after_the_image_its_own_pivots_do():
    generator = torch.Generator().manual_seed(0)
    states, keys = torch.randn(20, 8, generator=generator), torch.randn(2, 20, 4, generator=generator)
    chosen = tokenprune.method("dart").select(tokens_of(states, keys, 0, 20), 10, layer=2)
    assert chosen.order.tolist() == dart(states, states[:0], keys, keys[:, :0], 10)


def test_rows_are_compared_after_the_final_norm():
    generator = torch.Generator().manual_seed(0)
    states, keys = torch.randn(30, 8, generator=generator), torch.randn(2, 30, 4, generator=generator)
    scale = torch.rand(8, generator=generator) * 10
    tokens = tokens_of(states, keys, 0, 20)
    signals = {name: tokens.signal(name) for name in tokens.provides} | {
        "final_norm": lambda rows: rows * scale
    }
    normed = tokenprune.VisualTokens(tokens.features, signals)
    chosen = tokenprune.method("dart").select(normed, 12, layer=2)
    wanted = dart(states[:20] * scale, states[20:] * scale, keys[:, :20], keys[:, 20:], 12)
    assert chosen.order.tolist() == wanted


def test_another_score_gives_the_pivots_and_no_score_an_even_grid():
    _, _, tokens = golden_tokens()
    selector, scores = tokenprune.selector("dart"), torch.arange(64.0)
    assert selector.select(tokens.before_layer(2), scores, 12).order[:4].tolist() == [63, 62, 61, 60]
    assert selector.select(tokens.before_layer(2), None, 12).order[:4].tolist() == [8, 24, 40, 56]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"n_image_pivots": 0}, "n_image_pivots=0"), ({"visit": "random"}, "'listed' or 'set', got 'random'")],
)
def test_senseless_options_are_refused(options, sentence):
    with pytest.raises(tokenprune.OptionError, match=sentence):
        tokenprune.selector("dart", **options)


def test_positions_are_needed_only_for_the_official_visiting_order():
    assert "position_ids" not in tokenprune.selector("dart").needs
    assert {"position_ids", "text_position_ids"} <= tokenprune.selector("dart", visit="set").needs
