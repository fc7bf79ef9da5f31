# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from reference import golden
from reference.picks import assert_same_picks
from reference.scope import scope as slow

import tokenprune

FILES = sorted(path.stem for path in golden.FOLDER.glob("scope_n*.npz"))


def golden_method(name, vectors):
    options = {"combine": "add", "heads": "sum"} if name.endswith("_add") else {}
    return tokenprune.method("scope", alpha=float(vectors["alpha"]), **options)


def test_the_golden_files_are_there():
    assert {"scope_n64_T16_b1", "scope_n64_T40_b3"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_golden_picks(name):
    vectors = golden.load(name)
    keep, method = int(vectors["K"]), golden_method(name, vectors)
    for view, hidden in enumerate(vectors["hidden"]):
        rows, attention = hidden[1:], vectors["cls_attention"][view][:, 1:]
        signals = {"pre_features": rows, "cls_attention": attention}
        chosen = method.select(tokenprune.VisualTokens(torch.zeros(len(rows), 3), signals), keep)
        margins = vectors["margin_f64"][view]
        assert_same_picks(chosen.order, vectors["order"][view], margins)
        assert_same_picks(chosen.order, vectors["order_f64"][view], margins)
        if bool((margins > 1e-6).all()):
            assert chosen.indices.tolist() == vectors["kept_sorted"][view].tolist()
            sums = rows[chosen.indices].double().sum(-1)
            torch.testing.assert_close(sums, vectors["out_tokens_checksum_f64"][view])


@pytest.mark.parametrize("name", FILES)
def test_golden_views_are_tiles_that_share_the_budget(name):
    vectors = golden.load(name)
    views, n = vectors["hidden"].shape[0], vectors["hidden"].shape[1] - 1
    total, each = int(vectors["token_num"]), int(vectors["K"])
    signals = {
        "pre_features": vectors["hidden"][:, 1:].flatten(0, 1),
        "cls_attention": torch.cat(list(vectors["cls_attention"][:, :, 1:]), -1),
    }
    layout = tokenprune.Layout((1, 1, views * n), tiles=torch.arange(views * n) // n, full_tiles=5)
    chosen = golden_method(name, vectors).select(
        tokenprune.VisualTokens(torch.zeros(views * n, 3), signals, layout), total
    )
    assert len(chosen) == total >= views * each
    for view in range(views):
        own = chosen.order[chosen.order // n == view] % n
        assert len(own) == each + (view < total % views)  # the official code drops the remainder
        assert_same_picks(own[:each], vectors["order"][view], vectors["margin_f64"][view])


def test_the_unit_of_attention_matters_only_if_it_is_added():
    vectors = golden.load("scope_n64_T16_b1")
    rows, attention = vectors["hidden"][0, 1:], vectors["cls_attention"][0][:, 1:]
    tokens = tokenprune.VisualTokens(
        torch.zeros(64, 3), {"pre_features": rows, "cls_attention": 1000 * attention}
    )
    for heads, scores in (("mean", 1000 * attention.mean(0)), ("sum", 1000 * attention.sum(0))):
        added = tokenprune.method("scope", combine="add", heads=heads).select(tokens, 10)
        assert added.order.tolist() == slow(rows, 10, scores, combine="add")[0]
        times = tokenprune.method("scope", heads=heads).select(tokens, 10)
        assert times.order.tolist() == vectors["order"][0, :10].tolist()


def test_newlines_are_dropped_and_fewer_tiles_get_larger_shares():
    generator = torch.Generator().manual_seed(0)
    layout = tokenprune.Layout(
        (1, 1, 33), tiles=torch.arange(33) // 11, newlines=torch.arange(33) % 11 == 10, full_tiles=5
    )
    signals = {
        "pre_features": torch.randn(33, 8, generator=generator),
        "cls_attention": torch.rand(4, 33, generator=generator),
    }
    method = tokenprune.method("scope")
    chosen = method.select(tokenprune.VisualTokens(torch.zeros(33, 3), signals, layout), keep=10)
    assert (chosen.indices // 11).bincount().tolist() == [4, 3, 3]
    assert not bool((chosen.indices % 11 == 10).any())
    assert method.n_keep(layout, 10) == 10


def test_without_cls_attention_received_takes_its_place():
    generator = torch.Generator().manual_seed(0)
    rows, received = torch.randn(40, 4, 8, generator=generator), torch.rand(40, generator=generator)
    signals = {"pre_features": rows, "received_attention": received}  # 4 patches a token, as Qwen merges
    tokens = tokenprune.VisualTokens(torch.zeros(40, 3), signals)
    variant = tokenprune.method("scope-received")
    assert (variant.variant_of, variant.needs) == ("scope", {"pre_features", "received_attention"})
    chosen = variant.select(tokens, 12)
    assert chosen.order.tolist() == slow(rows.flatten(1), 12, received)[0]
    by_option = tokenprune.method("scope", source="received").select(tokens, 12)
    assert by_option.order.tolist() == chosen.order.tolist()
