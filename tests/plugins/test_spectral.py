# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import golden
from reference import spectral as slow
from tokenprune_plugins.spectral import SpectralScorer, evolution, patch_grids, spectral_magnitude

import tokenprune
from tokenprune import Layout
from tokenprune.stack import stack

GOLDEN = golden.names("clse_n*_k*", "clse_n60_k12", "clse_n64_k20")


def image(layout, seed=0, width=5, **changed):
    """Tokens before layer 1 of a picture whose rows change most where their channels are largest."""
    draw, n = torch.Generator().manual_seed(seed), len(layout)
    before = torch.randn(n, width, generator=draw)
    attention = torch.randn(2, 1, n, generator=draw).softmax(-1)
    signals = {"input_features": before, "attention_rows": lambda layer, rows: attention, **changed}
    after = before + 0.3 * before * torch.rand(n, 1, generator=draw)
    return tokenprune.VisualTokens(after, signals, layout, layer=1)


def attention_of(tokens):
    return tokenprune.scorer("attention", source="text").score(tokens)


def slow_weights(tokens, *grids):
    """Weights of the patches of grids (slots, h, w), filtered one by one and compared together."""
    magnitudes = [
        np.concatenate([slow.magnitudes(rows[slots], h, w) for slots, h, w in grids])
        for rows in (tokens.signal("input_features"), tokens.features)
    ]
    return torch.from_numpy(slow.weights(*magnitudes)).float()


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_magnitudes_weights_and_scores(name):
    vectors = golden.load(name)
    layout = Layout((1, *vectors["grid"].tolist()))
    options = {"cutoff": float(vectors["cutoff"]), "temperature": float(vectors["temp"])}
    grids = patch_grids(layout)
    magnitudes = [spectral_magnitude(vectors[z], grids, options["cutoff"]) for z in ("z_ref", "z_cur")]
    torch.testing.assert_close(magnitudes[0], vectors["spectral_ref"], rtol=1e-5, atol=0)
    torch.testing.assert_close(magnitudes[1], vectors["spectral_cur"], rtol=1e-5, atol=0)
    weights = evolution(*magnitudes, options["temperature"])
    torch.testing.assert_close(weights, vectors["evolution"], rtol=2e-3, atol=1e-8)
    signals = {
        "input_features": vectors["z_ref"],
        "attention_rows": lambda layer, rows: vectors["attn_last"][:, None],
    }
    tokens = tokenprune.VisualTokens(vectors["z_cur"], signals, layout, layer=1)
    torch.testing.assert_close(
        SpectralScorer(**options).score(tokens), vectors["scores"], rtol=2e-3, atol=1e-9
    )


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**31),
    h=st.integers(2, 7),
    w=st.integers(1, 7),
    cutoff=st.floats(0.05, 2),
)
def test_the_filter_equals_the_definition_of_the_transform(seed, h, w, cutoff):
    rows = torch.randn(h * w, 3, generator=torch.Generator().manual_seed(seed))
    found = spectral_magnitude(rows, patch_grids(Layout((1, h, w))), cutoff)
    wanted = torch.from_numpy(slow.magnitudes(rows, h, w, cutoff)).float()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 30), temperature=st.floats(0.1, 3))
def test_weights_equal_the_slow_reference(seed, n, temperature):
    before, after = torch.rand(2, n, generator=torch.Generator().manual_seed(seed))
    wanted = torch.tensor(slow.weights(before.tolist(), after.tolist(), temperature)).float()
    torch.testing.assert_close(evolution(before, after, temperature), wanted, rtol=2e-3, atol=1e-5)


def test_the_filter_by_hand():
    # min(h // 2, w // 2) = 1: sigma = 0.1, so that only the mean, 2.5, is removed; the mean of two channels
    rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 8.0]])
    found = spectral_magnitude(rows, patch_grids(Layout((1, 2, 2))), 0.1)
    assert found.tolist() == pytest.approx([1.75, 1.25, 1.25, 3.75])


def test_weights_by_hand():
    # change: 0, 0, 0 and 0.4 / 2; z = (-0.5, -0.5, -0.5, 1.5) with the unbiased deviation 0.1
    weights = evolution(torch.ones(4), torch.tensor([1.0, 1.0, 1.0, 1.4]), temperature=1.0)
    assert weights.tolist() == pytest.approx([0.37754, 0.37754, 0.37754, 0.81757], abs=1e-4)


def test_a_change_counts_as_1_at_most():
    before = torch.ones(3)
    change = evolution(before, torch.tensor([1.0, 3.0, 50.0]), temperature=1.0)
    assert change[1] == pytest.approx(float(change[2]), abs=1e-5)


def test_where_nothing_changes_attention_alone_ranks():
    tokens = image(Layout((1, 3, 4)))
    still = tokenprune.VisualTokens(
        tokens.signal("input_features"), {name: tokens.signal(name) for name in tokens.provides},
        tokens.layout, layer=1,
    )  # fmt: skip
    torch.testing.assert_close(SpectralScorer().score(still), attention_of(still) / 2)


def test_the_frames_of_a_video_are_filtered_one_by_one():
    tokens = image(Layout((2, 3, 4)))
    wanted = slow_weights(tokens, (slice(0, 12), 3, 4), (slice(12, 24), 3, 4)) * attention_of(tokens)
    torch.testing.assert_close(SpectralScorer().score(tokens), wanted, rtol=2e-3, atol=1e-6)


def tiled(newlines=True, grids=((2, 2), (2, 2), (2, 3))):
    """A base tile, and two beside each other with a newline token at the end of each line."""
    tiles = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 1, 1, 2, 2, 2, 2])
    is_newline = torch.zeros(16, dtype=torch.bool)
    is_newline[[9, 15]] = True
    if not newlines:
        tiles, is_newline = tiles[~is_newline], None
    return Layout((1, 1, len(tiles)), tiles, is_newline, 5, grids)


def test_tiles_are_filtered_one_by_one_and_newlines_get_the_mean_weight():
    tokens = image(tiled())
    grids = [([0, 1, 2, 3], 2, 2), ([4, 5, 10, 11], 2, 2), ([6, 7, 8, 12, 13, 14], 2, 3)]
    of_patches, weights = slow_weights(tokens, *grids), torch.empty(16)
    weights[[0, 1, 2, 3, 4, 5, 10, 11, 6, 7, 8, 12, 13, 14]] = of_patches
    weights[[9, 15]] = of_patches.mean()
    torch.testing.assert_close(
        SpectralScorer().score(tokens), weights * attention_of(tokens), rtol=2e-3, atol=1e-6
    )


@pytest.mark.parametrize("rules", [{"newlines": "drop"}, {"newlines": "keep"}, {"scope": "tile"}], ids=str)
def test_in_a_method_a_tiled_image_is_scored_by_its_grids(rules):
    """Whether newline tokens compete makes no difference to the patches, nor how the budget is divided."""
    tokens = image(tiled())
    method = tokenprune.Method(name="m", scorer="spectral", selector="topk", stage="decoder", **rules)
    scores, wanted = method.select(tokens, 6).scores, SpectralScorer().score(tokens)
    patches = ~tokens.layout.newlines
    torch.testing.assert_close(scores[patches], wanted[patches])


def test_tiles_that_show_only_padding_have_no_patches():
    layout = Layout((1, 1, 4), torch.zeros(4, dtype=torch.long), tile_grids=((2, 2), (0, 0)))
    assert [shape for _, shape in patch_grids(layout)] == [(2, 2)]


def test_patches_that_do_not_fill_their_tile_are_refused():
    layout = tiled(newlines=False, grids=((2, 2), (2, 2), (3, 3)))
    with pytest.raises(tokenprune.IncompatibleError, match="tile 2 .* grid of 3 x 3 patches, but 6 tokens"):
        SpectralScorer().score(image(layout))


@pytest.mark.parametrize(
    "layout",
    [
        Layout((1, 1, 12)),  # unknown, or what an earlier cut left, in the decoder or in the tower
        Layout((1, 1, 12), newlines=torch.arange(12) == 11),
        Layout((1, 1, 12), tiles=torch.arange(12) // 6),  # survivors: their tiles are no longer full
        Layout((1, 3, 4), newlines=torch.arange(12) == 11),
    ],
    ids=["row", "row-with-newline", "tiles", "grid-with-newline"],
)
def test_without_a_grid_attention_alone_ranks(layout):
    tokens = image(layout)
    assert torch.equal(SpectralScorer().score(tokens), attention_of(tokens))


def test_after_an_earlier_cut_attention_alone_ranks():
    tokens = image(Layout((1, 2, 3)), input_features=torch.randn(16, 5))
    assert torch.equal(SpectralScorer().score(tokens), attention_of(tokens))


def test_a_later_cut_never_reads_the_rows_of_layer_0():
    """Those of a stack may differ in number."""

    def fails():
        raise AssertionError("not needed")

    tokens = image(Layout((1, 1, 12)), input_features=fails)
    assert torch.equal(SpectralScorer().score(tokens), attention_of(tokens))


@pytest.mark.parametrize("grid", [(1, 3, 4), (1, 1, 12)])
def test_a_stack_is_scored_like_its_images_one_by_one(grid):
    images = [image(Layout(grid), seed) for seed in range(3)]
    together = SpectralScorer().score(stack(images))
    apart = torch.stack([SpectralScorer().score(one) for one in images])
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-9)


def test_half_precision_rows_are_filtered_in_float32():
    tokens = image(Layout((1, 4, 4)))
    signals = {name: tokens.signal(name) for name in tokens.provides}
    scores = []
    for kind in (torch.bfloat16, torch.float32):
        signals["input_features"] = tokens.signal("input_features").bfloat16().to(kind)
        rows = tokens.features.bfloat16().to(kind)
        scores.append(SpectralScorer().score(tokenprune.VisualTokens(rows, signals, tokens.layout, layer=1)))
    assert torch.equal(*scores)


@pytest.mark.parametrize("option", ["cutoff", "temperature"])
@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan")])
def test_options_are_checked(option, value):
    with pytest.raises(tokenprune.OptionError, match=f"{option} must be a number above 0, got {value}"):
        tokenprune.scorer("spectral", **{option: value})


def test_it_needs_attention_and_the_rows_of_layer_0():
    assert SpectralScorer().needs == {"attention_rows", "input_features"}
