# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import golden
from reference import prunesid as slow
from tokenprune_plugins import prunesid as plugin
from tokenprune_plugins.pca_groups import exact_loadings
from tokenprune_plugins.prunesid import PruneSidSelector

import tokenprune
from tokenprune.stack import stack
from tokenprune.testing import check_selector, example_tokens

LLAVA = sorted(
    {"prunesid_llava_n64_T16_b1", "prunesid_llava_n64_T16_b3"}
    | {p.stem for p in golden.FOLDER.glob("prunesid_llava_*.npz")}
)
QWEN = sorted({"prunesid_qwen_n64_T192"} | {p.stem for p in golden.FOLDER.glob("prunesid_qwen_*.npz")})


def given_loadings(monkeypatch, loadings):
    """Use the loadings of the official randomised decomposition."""

    def stored(rows, q):
        assert loadings.shape == (len(rows), q)
        return loadings

    monkeypatch.setattr(plugin, "exact_loadings", stored)


def filled_stably(survivors, order):
    """Whether the official code filled groups with equally many survivors in their order."""
    return torch.equal(order, survivors.argsort(descending=True, stable=True))


def clusters(n, width, seed, n_clusters=6):
    """Rows around a few centres, and scores."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(n_clusters, width, generator=generator)
    rows = centres[torch.randint(n_clusters, (n,), generator=generator)]
    return rows + 0.4 * torch.randn(n, width, generator=generator), torch.rand(n, generator=generator)


def tower_tokens(rows, attention, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(1, rows.shape[-1], generator=generator)
    signals = {
        "pre_features": rows,
        "cls_attention": attention[None],
        "cls_hidden": hidden,
        "projector": lambda x: 2 * x,
    }
    return tokenprune.VisualTokens(2 * rows, signals)


@pytest.mark.parametrize("name", LLAVA)
def test_golden_picks_and_class_row_of_the_llava_code(name, monkeypatch):
    vectors = golden.load(name)
    total = int(vectors["need_token_num"])
    for b, hidden in enumerate(vectors["hidden"].float()):
        signals = {
            "pre_features": hidden[1:],
            "cls_hidden": hidden[:1],
            "cls_attention": vectors["cls_attention"][b, :, 1:],
            "projector": lambda rows: rows,
        }
        tokens = tokenprune.VisualTokens(hidden[1:], signals)
        given_loadings(monkeypatch, vectors["pca_abs_V"][b])
        method = tokenprune.method("prunesid")
        is_defined = filled_stably(vectors["nms_keep_counts"][b], vectors["fill_order"][b])
        replay, official = vectors["batch_indices_stable_ties"][b], vectors["batch_indices"][b, 1:]
        stable = (official if is_defined else replay) - 1
        picks = method.selector.select(tokens, signals["cls_attention"].mean(0), total - 1)
        assert picks.order.tolist() == stable.tolist()  # group by group
        chosen = method.select(tokens, total)
        assert chosen.indices.tolist() == [-1, *sorted(stable.tolist())]
        torch.testing.assert_close(chosen.features, hidden[chosen.indices + 1])
        if is_defined:
            assert chosen.indices[1:].tolist() == vectors["kept_sorted_patches"][b].tolist()


@pytest.mark.parametrize("name", QWEN)
def test_golden_picks_of_the_qwen_code(name, monkeypatch):
    vectors = golden.load(name)
    features = vectors["features"].float()
    keep = max(round(len(features) * int(vectors["need_token_num"]) / 576), 16)
    given_loadings(monkeypatch, vectors["pca_abs_V"])
    chosen = tokenprune.method("prunesid-merged").select(tokenprune.VisualTokens(features), keep)
    is_defined = filled_stably(vectors["nms_keep_counts"], vectors["fill_order"])
    stable = vectors["indices" if is_defined else "indices_stable_ties"].tolist()
    assert chosen.indices.tolist() == sorted(stable)
    if keep <= 150:
        assert chosen.order.tolist() == stable
    if is_defined:
        assert chosen.indices.tolist() == vectors["kept_sorted"].tolist()


def margins(rows, merged, total):
    """Smallest gap between two loadings of a token, and between a cosine and the limit."""
    largest = torch.from_numpy(slow.loadings(rows, max(total // 4, 4 if merged else 1)))
    gap = largest.topk(2, dim=1).values.diff(dim=1).abs().min() if largest.shape[1] > 1 else torch.tensor(1.0)
    limit = (slow.merged_threshold if merged else slow.tower_threshold)(rows, total)
    return min(float(gap), float((torch.from_numpy(slow.cosines(rows)) - limit).abs().min()))


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 48),
    reserved=st.integers(0, 2),
    merged=st.booleans(),
    scored=st.booleans(),
    data=st.data(),
)
def test_equals_the_slow_reference(seed, n, reserved, merged, scored, data):
    keep = data.draw(st.integers(1, n))
    rows, scores = clusters(n, 70, seed)
    selector = PruneSidSelector("merged" if merged else "tower", reserved)
    tokens = tokenprune.VisualTokens(rows, {"pre_features": rows})
    chosen = selector.select(tokens, scores if scored else None, keep)
    assert chosen.indices.tolist() == sorted(set(chosen.order.tolist())) and len(chosen) == keep
    if margins(rows, merged, keep + reserved) > 1e-6:
        want = slow.prunesid(rows, scores.tolist() if scored else None, keep, reserved, merged)
        assert chosen.order.tolist() == want


@pytest.mark.parametrize("n", [1, 2, 5, 17, 30])
@pytest.mark.parametrize("pca", ["exact", "randomized"])
def test_every_budget_is_kept_exactly_also_those_for_which_the_official_code_does_not_end(n, pca):
    rows, scores = clusters(n, 8, seed=n)  # fewer dimensions than groups
    for source in ("tower", "merged"):
        for reserved in (0, 1):
            selector = PruneSidSelector(source, reserved, pca)
            for keep in range(1, n + 1):
                tokens = tokenprune.VisualTokens(rows, {"pre_features": rows})
                assert len(selector.select(tokens, scores, keep).indices.unique()) == keep


def test_the_class_row_is_one_of_the_budget_and_a_single_row_is_the_best_patch():
    rows, attention = clusters(60, 20, seed=3)
    tokens, method = tower_tokens(rows, attention), tokenprune.method("prunesid")
    chosen = method.select(tokens, 16)
    assert chosen.indices.tolist() == [-1, *sorted(slow.prunesid(rows, attention.tolist(), 15, 1))]
    torch.testing.assert_close(chosen.features[0], 2 * tokens.signal("cls_hidden")[0])
    assert torch.equal(chosen.features[1:], tokens.features[chosen.indices[1:]])
    for keep in (1, 2, 3):
        assert method.n_keep(tokens.layout, keep) == keep == len(method.select(tokens, keep))
    best = int(attention.argmax())
    assert method.select(tokens, 1).indices.tolist() == [best]
    assert method.select(tokens, 2).indices.tolist() == [-1, best]


def test_each_tile_has_groups_a_class_row_and_a_budget_of_its_own():
    rows, attention = clusters(90, 24, seed=4)
    tokens = tower_tokens(rows, attention)
    signals = {name: tokens.signal(name) for name in tokens.provides}
    signals["cls_hidden"] = torch.randn(3, 24, generator=torch.Generator().manual_seed(0))
    layout = tokenprune.Layout((1, 1, 90), tiles=torch.arange(90) // 30, full_tiles=5)
    tiled = tokenprune.VisualTokens(tokens.features, signals, layout)
    chosen = tokenprune.method("prunesid").select(tiled, 40)  # 8 for each of 5 tiles, of which there are 3
    patches = []
    for tile in range(3):
        part = slice(30 * tile, 30 * tile + 30)
        picks = slow.prunesid(rows[part], attention[part].tolist(), 7, 1)
        patches += [30 * tile + slot for slot in sorted(picks)]
    assert chosen.indices[chosen.indices >= 0].tolist() == patches
    new = chosen.features[chosen.indices < 0]
    torch.testing.assert_close(new, 2 * signals["cls_hidden"])


@pytest.mark.parametrize("keep", [1, 3, 4, 20, 60])
def test_without_cls_the_loadings_of_the_projectors_output_rank(keep):
    rows = clusters(60, 70, seed=5)[0]
    chosen = tokenprune.method("prunesid-merged").select(tokenprune.VisualTokens(rows), keep)
    assert chosen.indices.tolist() == sorted(slow.prunesid(rows, None, keep, 0, merged=True))
    assert chosen.scores is None


def test_patches_that_are_merged_into_a_token_are_taken_one_after_the_other():
    rows, scores = clusters(40, 24, seed=6)
    merged = tokenprune.VisualTokens(rows, {"pre_features": rows.view(40, 4, 6)})
    plain = tokenprune.VisualTokens(rows, {"pre_features": rows})
    for pair in ((merged, plain), (stack([merged] * 2), stack([plain] * 2))):
        each = scores if not pair[0].is_batch else scores.expand(2, 40)
        first, second = (PruneSidSelector().select(tokens, each, 12).order for tokens in pair)
        assert torch.equal(first, second)


def test_a_seed_decides_the_randomized_groups():
    rows, scores = clusters(200, 60, seed=7, n_clusters=40)
    tokens = tokenprune.VisualTokens(rows, {"pre_features": rows})
    found = [
        PruneSidSelector(pca="randomized", seed=seed).select(tokens, scores, 64).indices for seed in (0, 1, 0)
    ]
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
    exact = PruneSidSelector().select(tokens, scores, 64).indices
    shared = set(exact.tolist()) & set(found[0].tolist())
    assert 32 < len(shared) < 64


@pytest.mark.parametrize("pca", ["exact", "randomized"])
@pytest.mark.parametrize("source", ["tower", "merged"])
def test_a_stack_is_chosen_like_its_images_one_by_one(pca, source):
    images = [example_tokens(60, seed) for seed in range(3)]
    scores = torch.rand(3, 60, generator=torch.Generator().manual_seed(0))
    selector = PruneSidSelector(source, pca=pca)
    check_selector(selector)
    for ranking in (scores, None):
        together = selector.select(stack(images), ranking, 21).order
        for number, image in enumerate(images):
            alone = selector.select(image, None if ranking is None else ranking[number], 21)
            assert torch.equal(together[number], alone.order)


def test_the_number_of_groups_is_a_quarter_of_the_budget(monkeypatch):
    asked = []

    def counted(rows, q):
        asked.append(q)
        return exact_loadings(rows, q)

    monkeypatch.setattr(plugin, "exact_loadings", counted)
    rows, scores = clusters(64, 70, seed=8)
    tokens = tokenprune.VisualTokens(rows, {"pre_features": rows})
    for keep in (1, 2, 3, 30, 31):
        PruneSidSelector(reserved=1).select(tokens, scores, keep)
        PruneSidSelector("merged").select(tokens, scores, keep)
    assert asked == [1, 4, 1, 4, 1, 4, 7, 7, 8, 7]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "cls"}, "source must be 'tower' or 'merged', got 'cls'"),
        ({"pca": "svd"}, "pca must be 'exact' or 'randomized', got 'svd'"),
        ({"reserved": -1}, "reserved must be at least 0, got -1"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(tokenprune.OptionError, match=words):
        tokenprune.selector("prunesid", **options)
