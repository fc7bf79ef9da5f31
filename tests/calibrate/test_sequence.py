# SPDX-License-Identifier: Apache-2.0
"""Fixed-sequence testing by hand."""

import numpy as np
import pytest
from tokenprune_calibrate.statistics import betting, binomial, sequence


def losses(*counts, n=200):
    return [np.r_[np.ones(k), np.zeros(n - k)] for k in counts]


def certify(values, limit=0.05, delta=0.05):
    return sequence.certify(values, limit, delta, binomial.p_value, binomial.upper_bound)


def test_settings_are_tested_until_one_fails():
    result = certify(losses(0, 2, 9, 0))  # 4 losses of 200 are the most that certify 5 %
    assert result.n_certified == 2
    assert result.p_values[:3] == tuple(binomial.p_value(values, 0.05) for values in losses(0, 2, 9))
    assert result.p_values[3] is None  # after a failure nothing is tested, whatever it looks like
    assert result.upper_bounds == tuple(binomial.upper_bound(values, 0.05) for values in losses(0, 2, 9, 0))


def test_a_setting_passes_if_and_only_if_its_bound_is_at_most_the_limit():
    for count in range(12):
        result = certify(losses(count))
        assert (result.n_certified == 1) == (result.upper_bounds[0] <= 0.05)


def test_methods_divide_the_level():
    assert sequence.share(0.05, 1) == 0.05
    assert sequence.share(0.05, 4) == 0.0125
    with pytest.raises(ValueError, match="at least one method, got 0"):
        sequence.share(0.05, 0)


def test_units_must_be_the_same():
    with pytest.raises(ValueError, match=r"same units, got \[10, 20\]"):
        certify([np.zeros(10), np.zeros(20)])


def test_a_decision_is_final():
    zeros, ones = np.zeros(100), np.ones(100)
    assert sequence.is_decided([zeros, zeros], 0.1, 0.05, n_left=50)  # both have passed
    assert sequence.is_decided([zeros, ones], 0.1, 0.05, n_left=100)  # the second cannot any more
    assert not sequence.is_decided([zeros, ones], 0.1, 0.05, n_left=100_000)
    assert not sequence.is_decided([zeros[:5]], 0.1, 0.05, n_left=50)


def test_stopping_early_gives_what_waiting_gives():
    rng = np.random.default_rng(1)
    stopped = 0
    for _ in range(40):
        values = [(rng.random(300) < risk).astype(float) for risk in (0.01, 0.05, 0.3)]
        waited = sequence.certify(values, 0.1, 0.05, betting.p_value, betting.upper_bound).n_certified
        n = next(
            n
            for n in range(10, 301, 10)
            if n == 300 or sequence.is_decided([v[:n] for v in values], 0.1, 0.05, 300 - n)
        )
        early = [v[:n] for v in values]
        assert sequence.certify(early, 0.1, 0.05, betting.p_value, betting.upper_bound).n_certified == waited
        stopped += n < 300
    assert stopped >= 30
