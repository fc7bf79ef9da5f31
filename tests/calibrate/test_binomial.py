# SPDX-License-Identifier: Apache-2.0
"""The exact binomial test, against fractions and by hand."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenprune_calibrate.statistics import binomial


def exact_tail(n_losses, n, limit):
    p = Fraction(limit)
    return sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n_losses + 1))


def losses(n_losses, n):
    return np.r_[np.ones(n_losses), np.zeros(n - n_losses)]


@pytest.mark.parametrize(
    ("n_losses", "n", "limit"), [(0, 1, 0.5), (3, 10, 0.25), (0, 149, 0.02), (74, 809, 0.1), (90, 100, 0.9)]
)
def test_the_p_value_is_exact(n_losses, n, limit):
    expected = float(exact_tail(n_losses, n, limit))
    assert binomial.p_value(losses(n_losses, n), limit) == pytest.approx(expected, rel=1e-10)


def test_the_smallest_samples():
    assert [binomial.fewest_samples(0.02, 0.05 / methods) for methods in (1, 2, 5, 10)] == [
        149,
        183,
        228,
        263,
    ]
    assert binomial.fewest_samples(0.5, 0.25) == 2  # 0.5^2, exactly


@given(st.floats(0.001, 0.5), st.floats(0.001, 0.5))
def test_the_smallest_sample_certifies_and_one_less_does_not(limit, delta):
    n = binomial.fewest_samples(limit, delta)
    assert (1 - limit) ** n <= delta * (1 + 1e-9)
    assert n == 1 or (1 - limit) ** (n - 1) > delta * (1 - 1e-9)


def test_the_upper_bound_by_hand():
    assert binomial.upper_bound(losses(0, 100), 0.05) == pytest.approx(1 - 0.05**0.01)
    assert binomial.upper_bound(losses(4, 4), 0.05) == 1.0
    assert binomial.upper_bound(losses(3, 4), 0.05) == pytest.approx(0.95**0.25)  # 1 - p^4 = 0.05
    assert binomial.upper_bound(losses(74, 809), 0.05) == pytest.approx(0.1099, abs=5e-4)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.01, 0.3))
def test_the_upper_bound_is_where_the_p_value_is_delta(counts, delta):
    bound = binomial.upper_bound(losses(*counts), delta)
    if bound < 1 - 1e-9:
        assert binomial.p_value(losses(*counts), bound) == pytest.approx(delta, rel=1e-6)


@pytest.mark.parametrize(
    ("values", "limit", "said"),
    [
        ([0.5], 0.1, "losses of 0 and 1"),
        ([], 0.1, "at least one loss, got 0"),
        ([[0.0]], 0.1, "one axis"),
        ([2.0], 0.1, r"in \[0, 1\]"),
        ([float("nan")], 0.1, r"in \[0, 1\]"),
        ([0.0], 0.0, "the limit must be above 0 and below 1, got 0.0"),
        ([0.0], 1.0, "the limit must be above 0 and below 1, got 1.0"),
    ],
)
def test_bad_input_is_refused(values, limit, said):
    with pytest.raises(ValueError, match=said):
        binomial.p_value(values, limit)
    if "limit" in said:
        with pytest.raises(ValueError, match="above 0 and below 1"):
            binomial.fewest_samples(limit, 0.05)
        with pytest.raises(ValueError, match="delta must be above 0"):
            binomial.upper_bound([0.0], limit)
