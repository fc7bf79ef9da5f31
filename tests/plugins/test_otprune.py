# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from reference import golden
from reference.picks import assert_same_picks
from tokenprune_plugins.logdet import ColumnKernel

import tokenprune

FILES = sorted(path.stem for path in golden.FOLDER.glob("otprune_n*.npz"))


def test_the_golden_files_are_there():
    assert {"otprune_n64_r0.098_s1", "otprune_n64_r0.25_s0"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_golden_picks(name):
    vectors = golden.load(name)
    keep, method = int(vectors["K"]), tokenprune.method("otprune", gamma=float(vectors["gamma"]))
    chosen = method.select(tokenprune.VisualTokens(vectors["features"]), keep)
    margins = vectors["margin_f64"]
    assert_same_picks(chosen.order, vectors["order"], margins)
    assert_same_picks(chosen.order, vectors["order_f64"], margins)
    if bool((margins > 1e-6).all()):
        kept = vectors["kept_sorted"].tolist()
        assert chosen.indices.tolist() == kept == sorted(vectors["official_return"].tolist())


@pytest.mark.parametrize("name", FILES)
def test_golden_variances(name):
    vectors = golden.load(name)
    diagonal = 1 + float(vectors["gamma"]) * ColumnKernel(vectors["features"]).diagonal().double()
    torch.testing.assert_close(diagonal, vectors["kernel_diag_f64"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FILES)
def test_golden_budgets_are_those_of_keep_ratio(name):
    vectors = golden.load(name)
    layout = tokenprune.Layout((1, 1, len(vectors["features"])))
    budget = tokenprune.Budget(keep_ratio=float(vectors["ratio"]))
    assert tokenprune.method("otprune").n_keep(layout, budget) == int(vectors["K"])


def test_half_a_token_is_rounded_up_and_not_to_even():
    layout = tokenprune.Layout((1, 1, 25))
    assert tokenprune.method("otprune").n_keep(layout, tokenprune.Budget(keep_ratio=0.5)) == 13
    assert round(0.5 * 25) == 12  # the official code's


def test_the_same_in_half_precision():
    features = golden.load("otprune_n64_r0.25_s0")["features"]
    method = tokenprune.method("otprune")
    half, full = (method.select(tokenprune.VisualTokens(f), 16) for f in (features, features.float()))
    assert features.dtype == torch.float16
    assert half.order.tolist() == full.order.tolist()


def test_tiles_and_newlines_compete():
    features = torch.randn(18, 6, generator=torch.Generator().manual_seed(0))
    layout = tokenprune.Layout(
        (1, 1, 18), tiles=torch.arange(18) // 9, newlines=torch.arange(18) % 9 == 8, full_tiles=5
    )
    method = tokenprune.method("otprune")
    packed = method.select(tokenprune.VisualTokens(features, layout=layout), keep=7)
    plain = method.select(tokenprune.VisualTokens(features), keep=7)
    assert packed.order.tolist() == plain.order.tolist()
