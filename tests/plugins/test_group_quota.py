# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import golden, prunesid
from tokenprune_plugins.group_quota import group_quotas

LLAVA = sorted(
    {"prunesid_llava_n64_T16_b1", "prunesid_llava_n64_T16_b3"}
    | {p.stem for p in golden.FOLDER.glob("prunesid_llava_*.npz")}
)
QWEN = sorted({"prunesid_qwen_n64_T192"} | {p.stem for p in golden.FOLDER.glob("prunesid_qwen_*.npz")})


def quotas_of(survivors, sizes, keep, reserved=0):
    return group_quotas(torch.tensor(survivors), torch.tensor(sizes), keep, reserved).tolist()


def assert_official(found, survivors, official):
    """Equal quotas; among groups with equally many survivors, whose order is undefined, equal sums."""
    for count in survivors.unique():
        alike = survivors == count
        assert found[alike].sum() == official[alike].sum()
    if len(survivors.unique()) == len(survivors):
        assert torch.equal(found, official)


@pytest.mark.parametrize("name", LLAVA)
def test_golden_quotas_of_the_llava_code(name):
    vectors = golden.load(name)
    for b, survivors in enumerate(vectors["nms_keep_counts"]):
        sizes = vectors["groups"][b].bincount(minlength=len(survivors))
        found = group_quotas(survivors, sizes, int(vectors["need_token_num"]) - 1, reserved=1)
        assert_official(found, survivors, vectors["group_quota"][b])
        if torch.equal(vectors["fill_order"][b], survivors.argsort(descending=True, stable=True)):
            assert torch.equal(found, vectors["group_quota"][b])


@pytest.mark.parametrize("name", QWEN)
def test_golden_quotas_of_the_qwen_code(name):
    vectors = golden.load(name)
    survivors, groups = vectors["nms_keep_counts"], vectors["groups"]
    total = max(round(len(groups) * int(vectors["need_token_num"]) / 576), 16)
    found = group_quotas(survivors, groups.bincount(minlength=len(survivors)), total)
    assert_official(found, survivors, vectors["group_quota"])
    if torch.equal(vectors["fill_order"], survivors.argsort(descending=True, stable=True)):
        assert torch.equal(found, vectors["group_quota"])


def test_by_hand():
    # one each; 7 remain: cumulative shares 2/16, 6/16, 16/16 of 7 are 0.9, 2.6 and 7, so 1, 2 and 4
    assert quotas_of([2, 4, 10], [9, 9, 10], keep=10) == [2, 3, 5]
    # 8 remain: 1, 3 and 8, so 1, 2 and 5, but the limit of the third is 5; the second takes what it cannot
    assert quotas_of([2, 4, 10], [9, 9, 10], keep=11) == [2, 4, 5]


def test_halves_are_rounded_to_even():
    # T = 15 + 1: 11 remain, cumulative 2.75, 5.5, 8.25, 11
    assert quotas_of([1, 1, 1, 1], [16, 16, 16, 16], keep=15, reserved=1) == [4, 4, 3, 4]


def test_limits_rise_together_until_they_allow_the_budget():
    # limits 5, 1 and 2 are raised by two, to 7, 1 and 4 of T = 12; one each, then 8, 0 and 1 of 9 remaining
    assert quotas_of([18, 1, 2], [18, 1, 20], keep=12) == [7, 1, 4]
    assert quotas_of([18, 1, 2], [18, 1, 20], keep=11, reserved=1) == [7, 1, 3]


def test_suppressed_tokens_return_if_the_survivors_are_too_few():
    assert quotas_of([1, 1], [6, 6], keep=10) == [5, 5]
    assert quotas_of([1, 1], [2, 6], keep=8) == [2, 6]


def test_with_more_groups_than_tokens_the_first_get_one():
    assert quotas_of([3, 0, 2, 1], [3, 0, 2, 1], keep=2) == [1, 0, 1, 0]


def test_equal_groups_are_filled_up_from_the_first():
    survivors, sizes = [5, 5, 5, 1], [5, 9, 9, 40]
    assert quotas_of(survivors, sizes, 30) == prunesid.quotas(survivors, sizes, 30, 0)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 12, 40])
@pytest.mark.parametrize("reserved", [0, 1, 3])
def test_any_budget_is_kept_exactly(n, reserved):
    generator = torch.Generator().manual_seed(n)
    for keep in range(1, n + 1):
        for groups in {1, 4, max(1, (keep + reserved) // 4), n + 2}:
            of_token = torch.randint(groups, (n,), generator=generator)
            sizes = of_token.bincount(minlength=groups)
            left = torch.rand(groups, generator=generator).mul(sizes).ceil().long()
            found = group_quotas(left, sizes, keep, reserved)
            assert found.sum() == keep
            assert (found >= 0).all() and (found <= sizes).all()


@settings(deadline=None)
@given(data=st.data(), reserved=st.integers(0, 2))
def test_equals_the_slow_reference(data, reserved):
    sizes = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any))
    survivors = [data.draw(st.integers(min(1, size), size)) for size in sizes]
    keep = data.draw(st.integers(1, sum(sizes)))
    found = quotas_of(survivors, sizes, keep, reserved)
    assert found == prunesid.quotas(survivors, sizes, keep, reserved)
    assert sum(found) == keep
