# SPDX-License-Identifier: Apache-2.0
"""How many tokens stay: a number or a share, rounded half up in decimal, never none, never more than all."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune import Budget, BudgetError

SIZES = st.integers(1, 10_000)


@pytest.mark.parametrize(
    ("ratio", "n", "rows"),
    [
        (0.5, 5, 3),  # 2.5 rounds up
        (0.5, 3, 2),
        (0.145, 100, 15),  # 14.5 as written; its binary fraction lies below
        (0.285, 100, 29),  # 28.5 as written; in floating point 0.285 * 100 is 28.499999999999996
        (0.1, 4, 1),  # 0.4 rounds to none, and one stays
        (1e-9, 576, 1),
        (1, 576, 576),
        (1.0, 576, 576),
        (1 / 3, 576, 192),
        (0.0556, 2880, 160),  # 160.128
    ],
)
def test_shares_worked_out_by_hand(ratio, n, rows):
    assert Budget(keep_ratio=ratio).rows(n) == rows


@given(st.integers(1, 1000), SIZES)
def test_a_share_rounds_half_up_as_it_is_written(thousandths, n):
    exact = Fraction(thousandths, 1000) * n
    expected = max(1, math.floor(exact + Fraction(1, 2)))
    assert Budget(keep_ratio=thousandths / 1000).rows(n) == expected


@given(st.floats(0, 1, exclude_min=True), SIZES)
def test_a_share_keeps_at_least_one_and_at_most_all(ratio, n):
    assert 1 <= Budget(keep_ratio=ratio).rows(n) <= n


@given(st.floats(0, 1, exclude_min=True), st.floats(0, 1, exclude_min=True), SIZES)
def test_a_larger_share_never_keeps_fewer(one, other, n):
    low, high = sorted((one, other))
    assert Budget(keep_ratio=low).rows(n) <= Budget(keep_ratio=high).rows(n)


@given(st.integers(1, 20_000), SIZES)
def test_a_number_keeps_that_many_or_all(keep, n):
    assert Budget(keep=keep).rows(n) == min(keep, n)


@pytest.mark.parametrize(
    ("n", "at_least", "rows"),
    [(144, 0.25, 36), (10, 0.25, 3), (10, 0.1, 2), (3, 0.0, 2), (2, 0.5, 2), (9, 1, 9)],
)
def test_a_share_is_kept_in_any_case_rounded_up(n, at_least, rows):
    for budget in (Budget(2, at_least=at_least), Budget.of(2, at_least), Budget.of(Budget(2), at_least)):
        assert budget.rows(n) == rows
    assert Budget.of(Budget(2, at_least=1.0), at_least).rows(n) == n
    assert Budget(keep_ratio=0.9, at_least=at_least).rows(n) == max(Budget(keep_ratio=0.9).rows(n), rows)


@pytest.mark.parametrize(
    ("keep", "share", "part"), [(160, 1 / 5, 32), (160, 3 / 5, 96), (2, 1 / 5, 1), (7, 1, 7)]
)
def test_a_share_of_an_image_gets_that_share_of_a_count(keep, share, part):
    assert Budget(keep).of_share(share) == Budget(part)
    assert Budget(keep_ratio=0.3).of_share(share) == Budget(keep_ratio=0.3)


@pytest.mark.parametrize("at_least", [-0.1, 1.5, True, "0.5", math.nan])
def test_a_least_share_outside_0_to_1_is_refused(at_least):
    with pytest.raises(BudgetError, match="at_least must be a number in"):
        Budget(2, at_least=at_least)


@pytest.mark.parametrize("keep", [0, -1, True, False, 64.0, "64", math.nan, [64], (64,), 1 + 0j])
def test_a_keep_that_is_no_positive_whole_number_is_refused(keep):
    with pytest.raises(BudgetError, match=r"keep must be .*got "):
        Budget(keep=keep)


@pytest.mark.parametrize("ratio", [0, 0.0, -0.5, 1.0001, 2, True, False, "0.5", math.nan, math.inf, [0.5]])
def test_a_share_outside_0_to_1_is_refused(ratio):
    with pytest.raises(BudgetError, match=r"keep_ratio must .*\(0, 1\], got "):
        Budget(keep_ratio=ratio)


def test_neither_and_both_are_refused():
    with pytest.raises(BudgetError, match="exactly one of keep .* and keep_ratio .*, got neither"):
        Budget()
    with pytest.raises(BudgetError, match="exactly one of keep .* and keep_ratio .*, got both"):
        Budget(64, 0.5)


def test_a_budget_error_is_a_value_error():
    with pytest.raises(ValueError):
        Budget(keep=0)


def test_a_budget_reads_as_it_was_given():
    assert (str(Budget(64)), str(Budget(keep_ratio=0.25))) == ("keep=64", "keep_ratio=0.25")
