# SPDX-License-Identifier: Apache-2.0
"""The betting test, against a plain loop and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_calibrate.statistics import betting, binomial

SAMPLES = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def capital_in_a_loop(values, limit):
    """Each gambler's capital, loss after loss, and their average."""
    shares = [0.05 * (i + 1) for i in range(20)]
    weights = [0.75 / 19] * 19 + [0.25]
    capital, path = [1.0] * 20, []
    for loss in values:
        capital = [
            c * max(0.0, 1 + f / (1 - limit) * (limit - loss)) for c, f in zip(capital, shares, strict=True)
        ]
        path.append(sum(w * c for w, c in zip(weights, capital, strict=True)))
    return path


@given(SAMPLES, st.floats(0.01, 0.9))
def test_the_capital_is_that_of_a_loop(values, limit):
    expected = capital_in_a_loop(values, limit)
    np.testing.assert_allclose(np.exp(betting.log_capital(values, limit)), expected, rtol=1e-8, atol=1e-12)
    assert betting.p_value(values, limit) == pytest.approx(min(1.0, 1 / max(*expected, 1.0)), rel=1e-8)


def test_one_loss_by_hand():
    # each gambler gets 1 + f (0.5 - 0) / 0.5 = 1 + f; the mean share is 0.25 + 0.75 * 0.5
    assert math.exp(betting.log_capital([0.0], 0.5)[0]) == pytest.approx(1 + 0.25 + 0.75 * 0.5)
    assert betting.p_value([1.0], 0.5) == 1.0


@given(SAMPLES)
@settings(max_examples=50)
def test_the_p_value_falls_with_the_limit(values):
    p_values = [betting.p_value(values, limit) for limit in np.linspace(0.02, 0.98, 25)]
    assert all(later <= earlier + 1e-12 for earlier, later in zip(p_values, p_values[1:], strict=False))


@given(SAMPLES, st.floats(0.01, 0.3))
@settings(max_examples=50)
def test_the_upper_bound_inverts_the_test(values, delta):
    bound = betting.upper_bound(values, delta)
    assert bound >= np.mean(values) - 1e-9 or len(values) > 1
    if bound < 1 - 1e-6:
        assert betting.p_value(values, bound + 1e-9) <= delta * (1 + 1e-4)
        assert betting.p_value(values, max(1e-9, bound - 1e-6)) >= delta * (1 - 1e-3)


def test_smaller_losses_never_hurt():
    rng = np.random.default_rng(0)
    values = rng.random(200) * 0.1
    assert betting.p_value(values / 2, 0.08) <= betting.p_value(values, 0.08)


@pytest.mark.parametrize(("limit", "delta"), [(0.02, 0.05), (0.1, 0.05), (0.02, 0.005), (0.5, 0.01)])
def test_the_smallest_sample_certifies_and_one_less_does_not(limit, delta):
    n = betting.fewest_samples(limit, delta)
    assert betting.p_value(np.zeros(n), limit) <= delta
    assert n == 1 or betting.p_value(np.zeros(n - 1), limit) > delta
    # what an exact test of fixed size takes, and a little more for being valid at any time
    assert binomial.fewest_samples(limit, delta) <= n <= 1.35 * binomial.fewest_samples(limit, delta)


def test_the_smallest_samples_of_the_page():
    fewest = {methods: betting.fewest_samples(0.02, 0.05 / methods) for methods in (1, 2, 5, 10)}
    assert fewest == {1: 190, 2: 228, 5: 277, 10: 314}


def test_a_hopeless_sample_is_recognised():
    values = np.r_[np.ones(30), np.zeros(10)]
    assert not betting.can_still_pass(values, 0.1, 0.05, n_left=10)
    assert betting.can_still_pass(values, 0.1, 0.05, n_left=5000)
    n = betting.fewest_samples(0.1, 0.05)
    assert betting.can_still_pass([0.0], 0.1, 0.05, n_left=n - 1)
    assert not betting.can_still_pass([0.0], 0.1, 0.05, n_left=n - 2)


@pytest.mark.parametrize(("values", "limit"), [([-0.1], 0.1), ([0.0], 1.0), ([], 0.1)])
def test_bad_input_is_refused(values, limit):
    with pytest.raises(ValueError, match="must be|at least one"):
        betting.p_value(values, limit)
    with pytest.raises(ValueError, match="delta"):
        betting.upper_bound([0.0], 0.0)
