# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from reference import golden
from reference.visionzip import visionzip
from tokenprune_plugins.visionzip import VisionZipReducer, merge_contextual

import tokenprune
from tokenprune.scope import Share, join
from tokenprune.testing import example_tokens


def tokens_of(hidden, cls_attention, key_metric, projector=None):
    """One image's tokens; the inputs start with the CLS row."""
    projector = tokenprune.Projector.wrap(projector or (lambda rows: rows))
    signals = {
        "pre_features": hidden[1:],
        "cls_hidden": hidden[:1],
        "cls_attention": cls_attention[:, 1:],
        "key_metric": key_metric[1:],
        "projector": projector,
    }
    return tokenprune.VisualTokens(projector(hidden[1:]), signals)


def random_tower(n, seed=0, heads=3, width=12, key=6):
    generator = torch.Generator().manual_seed(seed)
    draw = [
        torch.randn(shape, generator=generator) for shape in ((n + 1, width), (heads, n + 1), (n + 1, key))
    ]
    return draw[0], draw[1].softmax(-1), draw[2]


@pytest.mark.parametrize("name", ["visionzip_n64_d12_c5_b1", "visionzip_n64_d9_c4_b2"])
def test_golden_picks_and_rows(name):
    vectors = golden.load(name)
    dominant, contextual = int(vectors["dominant_arg"]), int(vectors["contextual"])
    method = tokenprune.method("visionzip", dominant=dominant, contextual=contextual)
    for b, hidden in enumerate(vectors["hidden"]):
        tokens = tokens_of(hidden, vectors["cls_attention"][b], vectors["key_metric"][b])
        chosen = method.select(tokens, keep=dominant + contextual)
        patches = sorted((vectors["all_indices"][b, 1:] - 1).tolist())
        assert chosen.indices.tolist() == [-1, *patches, *[-1] * contextual]
        torch.testing.assert_close(chosen.features, vectors["out_tokens"][b], rtol=0, atol=1e-5)
        order = tokenprune.selector("topk").select(tokens, chosen.scores, dominant - 1).order
        assert order.tolist() == (vectors["all_indices"][b, 1:] - 1).tolist()


def test_merging_by_hand():
    # 5 rows, 2 targets: step 2, targets 0 and 2. Keys: rows 1 and 3 look like target 0, row 4 like target 2.
    hidden = torch.tensor([[1.0], [10.0], [2.0], [30.0], [5.0]])
    keys = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [3.0, -1.0], [0.5, 4.0]])
    assert merge_contextual(hidden, keys, 2).tolist() == [[1.0 + 20.0], [2.0 + 5.0]]


def test_two_rows_are_the_cls_row_and_the_best_patch():
    hidden, attention, keys = random_tower(30)
    tokens = tokens_of(hidden, attention, keys, projector=lambda rows: 2 * rows)
    best = int(attention[:, 1:].mean(0).argmax())
    chosen = tokenprune.method("visionzip").select(tokens, keep=2)
    assert chosen.indices.tolist() == [-1, best]
    torch.testing.assert_close(chosen.features, 2 * hidden[[0, best + 1]])
    alone = tokenprune.method("visionzip").select(tokens, keep=1)
    assert alone.indices.tolist() == [best] and alone.features is None
    reducer = VisionZipReducer()
    assert [reducer.split(keep, 576) for keep in (1, 2, 3, 4)] == [(1, 0), (2, 0), (3, 0), (3, 1)]
    assert [reducer.n_selected(keep, 576) for keep in (1, 2, 3, 4)] == [1, 1, 2, 2]


def test_two_rows_without_cls_are_the_best_patch_and_a_merged_one():
    generator = torch.Generator().manual_seed(5)
    features, received = torch.randn(30, 4, generator=generator), torch.rand(30, generator=generator)
    keys = torch.randn(30, 6, generator=generator)
    tokens = tokenprune.VisualTokens(features, {"received_attention": received, "key_metric": keys})
    chosen = tokenprune.method("visionzip-received").select(tokens, keep=2)
    best = int(received.argmax())
    assert chosen.indices.tolist() == [best, -1]
    rest = torch.arange(30) != best
    torch.testing.assert_close(chosen.features[1:], merge_contextual(features[rest], keys[rest], 1))


@pytest.mark.parametrize(
    ("options", "keep", "words"),
    [
        (
            {"dominant": 1},
            2,
            "keep=2 with 1 contextual rows leaves no patch beside the CLS row; use dominant=2",
        ),
        ({"contextual": 1}, 2, "leaves no patch beside the CLS row; use keep=3"),
        ({"dominant": 2, "contextual": 1}, 2, "do not add up to keep=2"),
        (
            {"contextual": 2, "source": "received"},
            2,
            "2 contextual rows leaves no patch; use keep=3",
        ),
    ],
)
def test_two_rows_that_cannot_be_split_as_asked_are_refused(options, keep, words):
    with pytest.raises(tokenprune.BudgetError, match=words):
        VisionZipReducer(**options).split(keep, 30)


def test_a_target_nobody_is_like_stays_alone():
    keys = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    assert merge_contextual(torch.tensor([[1.0], [2.0], [7.0], [4.0]]), keys, 2).tolist() == [[4.0], [7.0]]


@pytest.mark.parametrize(("n", "dominant", "contextual"), [(100, 20, 4), (57, 9, 7), (30, 2, 1), (40, 30, 9)])
def test_equals_the_slow_reference(n, dominant, contextual):
    tower = random_tower(n)
    chosen = tokenprune.method("visionzip", dominant=dominant, contextual=contextual).select(
        tokens_of(*tower), keep=dominant + contextual
    )
    slow = torch.from_numpy(visionzip(*tower, dominant, contextual)).float()
    torch.testing.assert_close(chosen.features, slow, rtol=0, atol=1e-5)


def test_new_rows_go_through_the_projector_and_kept_ones_are_the_models_own():
    weight = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    tower = random_tower(40)
    tokens = tokens_of(*tower, projector=lambda rows: rows @ weight)
    chosen = tokenprune.method("visionzip").select(tokens, keep=16)
    plain = tokenprune.method("visionzip").select(tokens_of(*tower), keep=16)
    torch.testing.assert_close(chosen.features, plain.features @ weight)
    is_old = chosen.indices >= 0
    assert torch.equal(chosen.features[is_old], tokens.features[chosen.indices[is_old]])


@pytest.mark.parametrize(
    ("keep", "dominant", "contextual"),
    [(32, 27, 5), (64, 54, 10), (128, 108, 20), (192, 162, 30), (2, 2, 0), (1, 1, 0)],
)
def test_the_budget_is_split_as_published(keep, dominant, contextual):
    assert VisionZipReducer().split(keep, 576) == (dominant, contextual)


def test_a_single_row_is_the_best_patch():
    tower = random_tower(10)
    chosen = tokenprune.method("visionzip").select(tokens_of(*tower), keep=1)
    assert chosen.indices.tolist() == [int(tower[1][:, 1:].mean(0).argmax())]
    assert chosen.features is None


def test_no_contextual_rows_leave_cls_and_the_best_patches():
    tower = random_tower(10)
    chosen = tokenprune.method("visionzip", contextual=0).select(tokens_of(*tower), keep=4)
    assert chosen.indices[0] == -1 and (chosen.indices[1:] >= 0).all()
    assert torch.equal(chosen.features[0], tower[0][0])


@pytest.mark.parametrize(
    ("options", "keep", "sentence"),
    [
        (
            {"dominant": 54, "contextual": 10},
            32,
            "dominant=54 and contextual=10 rows do not add up to keep=32",
        ),
        ({"dominant": 40}, 32, "do not add up to keep=32"),
        ({"contextual": 5}, 6, "leaves no patch beside the CLS row; use keep=7 or more"),
    ],
)
def test_a_split_that_does_not_fit_the_budget_is_refused(options, keep, sentence):
    with pytest.raises(tokenprune.BudgetError, match=sentence):
        tokenprune.method("visionzip", **options).select(tokens_of(*random_tower(50)), keep=keep)


def test_keeping_everything_changes_nothing():
    chosen = tokenprune.method("visionzip", dominant=54, contextual=10).select(
        tokens_of(*random_tower(20)), keep=64
    )
    assert chosen.indices.tolist() == list(range(20)) and chosen.features is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rows_are_merged_in_float32_and_returned_in_their_own(dtype):
    tower = [part.to(dtype) for part in random_tower(40)]
    signals = {
        "pre_features": tower[0][1:],
        "cls_hidden": tower[0][:1],
        "cls_attention": tower[1][:, 1:],
        "key_metric": tower[2][1:],
        "projector": lambda rows: rows,
    }
    half = tokenprune.method("visionzip").select(tokenprune.VisualTokens(tower[0][1:], signals), keep=16)
    full = tokenprune.method("visionzip").select(tokens_of(*(part.float() for part in tower)), keep=16)
    assert torch.equal(half.indices, full.indices)
    assert half.features.dtype == dtype
    assert torch.equal(half.features, full.features.to(dtype))


def received_tokens(n, seed=0):
    """Tokens of a tower without CLS: attention received, keys, and what the projector gave."""
    generator = torch.Generator().manual_seed(seed)
    signals = {
        "received_attention": torch.rand(n, generator=generator),
        "key_metric": torch.randn(n, 6, generator=generator),
    }
    return tokenprune.VisualTokens(torch.randn(n, 12, generator=generator), signals)


@pytest.mark.parametrize(
    ("n", "keep", "split"),
    [(580, 116, (87, 29)), (100, 20, (15, 5)), (39, 4, (3, 1)), (12, 1, (1, 0)), (200, 5, (1, 4))],
)
def test_without_cls_a_twentieth_of_the_tokens_is_merged(n, keep, split):
    assert VisionZipReducer(source="received").split(keep, n) == split
    chosen = tokenprune.method("visionzip-received").select(received_tokens(n), keep)
    assert ((chosen.indices >= 0).sum(), (chosen.indices < 0).sum()) == split


def test_without_cls_by_the_slow_reference():
    # the reference's CLS row is left out of its result; with a key of its own it attracts nobody
    n, dominant, contextual = 60, 9, 3
    tokens = received_tokens(n)
    hidden = torch.cat([torch.zeros(1, 12), tokens.features])
    attention = torch.cat([torch.zeros(1), tokens.signal("received_attention")])[None]
    keys = torch.cat([torch.ones(1, 6), tokens.signal("key_metric")])
    slow = torch.from_numpy(visionzip(hidden, attention, keys, dominant + 1, contextual)).float()[1:]
    chosen = tokenprune.method("visionzip-received").select(tokens, dominant + contextual)
    torch.testing.assert_close(chosen.features, slow, rtol=0, atol=1e-5)
    best = tokens.signal("received_attention").topk(dominant).indices.sort().values
    assert chosen.indices.tolist() == [*best.tolist(), -1, -1, -1]


def test_one_option_turns_the_method_into_its_variant():
    variant, tokens = tokenprune.method("visionzip", source="received"), received_tokens(50)
    assert variant.needs == {"received_attention", "key_metric"}
    want = tokenprune.method("visionzip-received").select(tokens, 9)
    assert torch.equal(variant.select(tokens, 9).features, want.features)


def test_without_cls_bad_options_are_refused():
    with pytest.raises(tokenprune.OptionError, match="source must be one of 'cls', 'received', got 'text'"):
        VisionZipReducer(source="text")
    with pytest.raises(tokenprune.BudgetError, match="5 contextual rows leaves no patch; use keep=6"):
        VisionZipReducer(source="received", contextual=5).split(5, 100)


def test_golden_order_of_the_rows_of_tiles():
    """Behind the whole picture: patches in raster order over all tiles, CLS rows, contextual rows."""
    vectors = golden.load("visionzip_anyres_w2_h2")
    w, h, side = int(vectors["grid_w"]), int(vectors["grid_h"]), 24
    canvas = torch.arange(h * w * side**2).view(h, side, w, side) + side**2  # slots behind the whole picture
    shares = [Share(torch.arange(side**2), 1, 0)]
    selections = [tokenprune.Selection(torch.tensor([7]), features=torch.full((1, 8), 7.0))]
    for tile, rows in enumerate(vectors["tile_features"]):
        n_patches = vectors["keep_idx"].shape[1] - 1
        new = torch.full((len(rows) - 1 - n_patches,), -1)
        patches = vectors["keep_idx"][tile, 1:].sort().values - 1
        slots = canvas[tile // w, :, tile % w].flatten()
        shares.append(Share(slots, len(rows), tile + 1))
        selections.append(tokenprune.Selection(torch.cat([new[:1], patches, new]), features=rows))
    features = torch.zeros((1 + h * w) * side**2, 8)
    joined = join(shares, selections, torch.empty(0, dtype=torch.long), features)
    assert torch.equal(joined.features[1:], vectors["out"])
    assert joined.indices[0] == 7


def test_when_tiles_compete_the_base_views_class_row_stands_for_all():
    tokens = example_tokens(24)
    signals = {name: tokens.signal(name) for name in tokens.provides}
    signals["cls_hidden"] = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    layout = tokenprune.Layout((1, 1, 24), tiles=torch.arange(24) // 8, full_tiles=3)
    tiled = tokenprune.VisualTokens(tokens.features, signals, layout)
    method = tokenprune.method("visionzip", scope="image")
    chosen = method.select(tiled, keep=12)
    plain = tokenprune.VisualTokens(tokens.features, {**signals, "cls_hidden": signals["cls_hidden"][:1]})
    alone = method.select(plain, keep=12)
    assert len(chosen) == 12 and torch.equal(chosen.indices, alone.indices)
    torch.testing.assert_close(chosen.features, alone.features)
    torch.testing.assert_close(chosen.features[0], tokens.projector(signals["cls_hidden"][:1])[0])
