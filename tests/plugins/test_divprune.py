# SPDX-License-Identifier: Apache-2.0
import torch
from reference import diversity, golden

import tokenprune


def test_golden_picks_and_order():
    vectors = golden.load("divprune_n64_r0.25_s0")
    tokens = tokenprune.VisualTokens(vectors["features"])
    chosen = tokenprune.method("divprune").select(tokens, keep=int(vectors["K"]))
    assert chosen.order.tolist() == vectors["order"].tolist()
    assert chosen.indices.tolist() == vectors["kept_sorted"].tolist()


def test_golden_duplicates_the_official_code_picks_twice_and_we_do_not():
    vectors = golden.load("divprune_quirk_duplicates")
    tokens = tokenprune.VisualTokens(vectors["features"])
    keep, n_distinct = int(vectors["K"]), int(vectors["n_unique"])
    chosen = tokenprune.method("divprune").select(tokens, keep=keep)
    assert chosen.order[:n_distinct].tolist() == vectors["order"][:n_distinct].tolist()
    assert len(set(chosen.order.tolist())) == keep
    assert len(set(vectors["order"].tolist())) == n_distinct


def test_by_hand():
    # angles 0, 10, 90, 200: token 3 is the most isolated, then 1 (170 away), then 2
    radians = torch.tensor([0.0, 10.0, 90.0, 200.0]).deg2rad()
    tokens = tokenprune.VisualTokens(torch.stack([radians.cos(), radians.sin()], -1))
    assert tokenprune.method("divprune").select(tokens, keep=3).order.tolist() == [3, 1, 2]


def test_is_uniform_and_diverse():
    features = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    tokens = tokenprune.VisualTokens(features)
    pair = tokenprune.selector("diverse").select(tokens, tokenprune.scorer("uniform").score(tokens), 10)
    chosen = tokenprune.method("divprune").select(tokens, keep=10)
    assert chosen.order.tolist() == pair.order.tolist() == diversity.divprune(features, 10)


def test_half_precision_features_are_compared_in_float32():
    features = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)).half()
    half = tokenprune.method("divprune").select(tokenprune.VisualTokens(features), keep=10)
    full = tokenprune.method("divprune").select(tokenprune.VisualTokens(features.float()), keep=10)
    assert torch.equal(half.order, full.order)


def test_newlines_compete_and_the_whole_image_is_one_pool_as_in_the_official_code():
    method = tokenprune.method("divprune")
    assert (method.scope, method.newlines) == ("image", "compete")
