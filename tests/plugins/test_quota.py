# SPDX-License-Identifier: Apache-2.0
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import golden
from reference import holov as slow
from tokenprune_plugins.quota import QuotaSelector, crop_scores, official_quotas, quotas, run_sizes

import tokenprune
from tokenprune.stack import stack
from tokenprune.testing import check_selector, example_tokens

GOLDEN = sorted(
    {"holov_n64_P7_T20_overflow", "holov_n64_P8_T16"} | {p.stem for p in golden.FOLDER.glob("holov_*.npz")}
)


def chosen_of(scores, keep, n=None, **options):
    tokens = tokenprune.VisualTokens(torch.zeros(n or len(scores), 2))
    return tokenprune.selector("quota", **options).select(tokens, scores, keep)


def golden_run(name):
    vectors = golden.load(name)
    return vectors, vectors["features"].float(), vectors["attn_mean"], int(vectors["num_patches"])


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_scores_and_quotas_of_the_runs(name):
    vectors, features, attention, groups = golden_run(name)
    found = crop_scores(features, attention, run_sizes(len(features), groups))
    torch.testing.assert_close(found, vectors["crop_scores_f64"], rtol=1e-6, atol=0)
    assert torch.equal(official_quotas(found, int(vectors["T"])), vectors["quota"])


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_picks_without_the_rows_of_zeros(name):
    vectors, features, attention, groups = golden_run(name)
    keep = int(vectors["T"])
    selector = QuotaSelector(groups=None if "qwen" in name else groups, official=True)
    chosen = selector.select(tokenprune.VisualTokens(features), attention, keep)
    kept = vectors["positions"][vectors["positions"] >= 0]
    assert chosen.indices.tolist() == sorted(kept.tolist()) == vectors["kept_sorted"].tolist()
    assert len(chosen) == keep - int(vectors["n_zero_rows"])


@pytest.mark.parametrize("name", GOLDEN)
def test_ours_keeps_what_is_golden_and_fills_up_what_is_lost_there(name):
    vectors, features, attention, groups = golden_run(name)
    keep = int(vectors["T"])
    chosen = QuotaSelector(groups).select(tokenprune.VisualTokens(features), attention, keep)
    assert len(chosen) == keep
    lost = set(vectors["kept_sorted"].tolist()) - set(chosen.indices.tolist())
    # an official score is 1.09 times the mean up to an epsilon, which can tip shares next to whole ones
    assert len(lost) <= (0 if vectors["margin_quota_frac_f64"] > 1e-3 else 2)


def test_by_hand():
    # means 4, 2, 1, 1 of 8: 2.5, 1.25, 0.625, 0.625 of 5 tokens; two remain, for the first two runs
    scores = torch.tensor([4.0, 3.0, 5.0, 1.0, 2.0, 3.0, 1.0, 0.0, 2.0, 1.0, 1.0, 1.0])
    chosen = chosen_of(scores, keep=5, groups=4)
    assert chosen.order.tolist() == [2, 0, 1, 5, 4]
    assert chosen.indices.tolist() == [0, 1, 2, 4, 5]


def test_what_a_full_run_cannot_take_goes_to_the_others_one_each_in_every_round():
    weights, sizes = torch.tensor([8.0, 0.5, 1.0, 0.5]).double(), torch.tensor([3, 3, 3, 3])
    # 6.4, 0.4, 0.8 and 0.4 of 8: 7, 0, 1, 0 with the two that remain, of which four do not fit
    assert quotas(weights, sizes, 8).tolist() == [3, 1, 3, 1]
    assert quotas(weights, sizes, 7).tolist() == [3, 1, 2, 1]
    assert quotas(weights, sizes, 12).tolist() == [3, 3, 3, 3]


def test_fewer_tokens_than_runs_go_to_the_heaviest():
    scores = torch.tensor([1.0, 1.0, 2.2, 0.2, 2.0, 0.2, 2.0, 0.2])
    assert [chosen_of(scores, k, groups=4).order.tolist() for k in (1, 2, 3)] == [[2], [2, 4], [2, 4, 6]]


def test_without_scores_an_even_grid_for_every_run():
    chosen = chosen_of(None, keep=8, n=16, groups=4)
    assert chosen.indices.tolist() == [1, 3, 5, 7, 9, 11, 13, 15]
    assert chosen_of(None, keep=2, n=16, groups=4).indices.tolist() == [4, 12]


def test_negative_scores_count_as_zero_and_without_positive_ones_shares_are_equal():
    scores = torch.tensor([-9.0, -1.0, 2.0, 1.0, -5.0, -6.0])
    assert chosen_of(scores, 2, groups=3).indices.tolist() == [2, 3]
    assert chosen_of(scores, 3, groups=3).order.tolist() == [1, 2, 3]
    assert chosen_of(-scores.abs(), 3, groups=3).order.tolist() == [1, 3, 4]


def test_runs_are_consecutive_and_the_first_ones_longer():
    assert run_sizes(11, 4).tolist() == [3, 3, 3, 2]
    assert run_sizes(576, 16).tolist() == [36] * 16
    assert run_sizes(3, 16).tolist() == [1, 1, 1]


def test_the_number_of_runs_on_qwen_follows_from_the_budget():
    # 1024 / 576 * 12 / 4 = 5.3: five runs, of 3, 3, 2, 2, 2
    scores = torch.rand(12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        chosen_of(scores, 4, groups=None).order, torch.tensor(slow.holov(scores.tolist(), 5, 4))
    )
    # more runs than tokens: the highest score each
    assert chosen_of(scores, 1, groups=None).order.tolist() == [int(scores.argmax())]


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 60),
    groups=st.integers(1, 20),
    levels=st.sampled_from([2, 8, None]),
    data=st.data(),
)
def test_equals_the_slow_reference(seed, n, groups, levels, data):
    keep = data.draw(st.integers(1, n))
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(n, generator=generator).pow(4)
    if levels is not None:
        scores = torch.randint(levels, (n,), generator=generator).float()
    chosen = chosen_of(scores, keep, groups=groups)
    assert chosen.order.tolist() == slow.holov(scores.tolist(), groups, keep)
    assert chosen.indices.tolist() == sorted(set(chosen.order.tolist())) and len(chosen) == keep


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 40), groups=st.integers(1, 12), data=st.data())
def test_official_equals_the_slow_reference_also_for_runs_of_one_token(seed, n, groups, data):
    keep = data.draw(st.integers(1, n))
    generator = torch.Generator().manual_seed(seed)
    rows, attention = torch.randn(n, 6, generator=generator), torch.rand(n, generator=generator)
    selector = QuotaSelector(groups, official=True)
    chosen = selector.select(tokenprune.VisualTokens(rows), attention, keep)
    assert chosen.indices.tolist() == sorted(slow.official(rows.numpy(), attention.numpy(), groups, keep))


def test_a_run_of_one_token_is_not_scaled_officially():
    rows = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    attention = torch.tensor([0.2, 0.3, 0.5])
    found = crop_scores(rows, attention, torch.tensor([2, 1]))
    assert found.tolist() == [pytest.approx(250 * 1.09, rel=1e-5), pytest.approx(0.5)]
    assert QuotaSelector(2, official=True).select(
        tokenprune.VisualTokens(rows), attention, 2
    ).indices.tolist() == [0, 1]
    assert chosen_of(attention, 2, groups=2).indices.tolist() == [1, 2]


@settings(deadline=None)
@given(
    weights=st.lists(st.floats(0, 1e6), min_size=1, max_size=12),
    keep=st.integers(1, 60),
    data=st.data(),
)
def test_quotas_add_up_and_fit(weights, keep, data):
    some = st.integers(1, 20)
    sizes = data.draw(st.lists(some, min_size=len(weights), max_size=len(weights)))
    keep = min(keep, sum(sizes))
    found = quotas(torch.tensor(weights).double(), torch.tensor(sizes), keep).tolist()
    assert sum(found) == keep
    assert all(0 <= share <= size for share, size in zip(found, sizes, strict=True))


def test_the_scale_of_the_scores_does_not_matter():
    scores = torch.rand(100, generator=torch.Generator().manual_seed(1))
    want = chosen_of(scores, 33).order
    for scale in (2.0**-40, 2.0**-10, 2.0**20):
        assert torch.equal(chosen_of(scores * scale, 33).order, want)


def test_exact_shares_are_not_lost_to_rounding():
    means = torch.full((49,), 1 / 49).double()
    assert quotas(means, torch.full((49,), 9), 98).tolist() == [2] * 49
    assert slow.quotas([Fraction(1, 49)] * 49, [9] * 49, 98) == [2] * 49


def test_a_stack_is_chosen_like_its_images_one_by_one():
    images = [example_tokens(50, seed) for seed in range(4)]
    scores = torch.rand(4, 50, generator=torch.Generator().manual_seed(2)).pow(6)
    selector = QuotaSelector(groups=6)
    for keep in (1, 5, 20, 49):
        together = selector.select(stack(images), scores, keep)
        for number, image in enumerate(images):
            alone = selector.select(image, scores[number], keep)
            assert torch.equal(together.order[number], alone.order)
        even = selector.select(stack(images), None, keep).indices
        assert torch.equal(even, selector.select(images[0], None, keep).indices.expand(4, keep))


def test_official_is_adaptive_and_takes_no_stacks():
    official = QuotaSelector(official=True)
    assert official.adaptive and not official.stacks
    assert not QuotaSelector().adaptive and QuotaSelector().stacks
    check_selector(official)
    check_selector(QuotaSelector(groups=None))
    assert len(official.select(example_tokens(), None, 5)) == 5


@pytest.mark.parametrize("groups", [0, -3])
def test_numbers_of_runs_below_1_are_refused(groups):
    with pytest.raises(tokenprune.OptionError, match=f"groups must be at least 1, or None, got {groups}"):
        tokenprune.selector("quota", groups=groups)
