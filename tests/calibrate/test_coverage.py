# SPDX-License-Identifier: Apache-2.0
"""By simulation: how often a certified setting's true risk is above the limit, and how much power is left.

2,000 repetitions each. The rate of violations may be `delta` at most; their number is binomial, so that a
test fails for a valid bound with probability 0.001 at most, once for all: the seeds are fixed.
"""

from statistics import NormalDist

import numpy as np
import pytest
from tokenprune_calibrate.statistics import betting, binomial, sequence

REPETITIONS, DELTA, LIMIT = 2000, 0.1, 0.1
MOST = int(REPETITIONS * DELTA + NormalDist().inv_cdf(0.999) * (REPETITIONS * DELTA * (1 - DELTA)) ** 0.5)
RISKS = (0.05, 0.09, 0.103, 0.12, 0.2)  # of settings from careful to cheap; the third is the first above


def bernoulli(rng, n):
    """Losses that are nested between settings: what a careful one loses, a cheap one loses too."""
    u = rng.random(n)
    return [(u < risk).astype(float) for risk in RISKS]


def beta(rng, n):
    """Losses between 0 and 1 with these means, comonotone between settings, with ties at 0."""
    scale = rng.beta(0.5, 1.5, n) / 0.25  # mean 1
    silent = rng.random(n) < 0.3
    return [np.minimum(1.0, np.where(silent, 0.0, 0.25 * scale) * risk / MEAN_BETA) for risk in RISKS]


def independent(rng, n):
    """Losses of each setting drawn on their own, in steps of a half (questions of a picture)."""
    return [rng.binomial(2, risk, n) / 2 for risk in RISKS]


MEAN_BETA = 0.7 * 0.25  # of the losses before they are scaled to a risk


def violations(draw, n, p_value, seed):
    rng = np.random.default_rng(seed)
    count, certified = 0, []
    for _ in range(REPETITIONS):
        n_certified = 0
        for values in draw(rng, n):
            if p_value(values, LIMIT) > DELTA:
                break
            n_certified += 1
        certified.append(n_certified)
        count += n_certified > 2  # the third setting's risk is above the limit
    return count, np.mean(certified)


def test_the_losses_have_the_risks_they_should_have():
    rng = np.random.default_rng(0)
    for draw in (bernoulli, beta, independent):
        np.testing.assert_allclose([values.mean() for values in draw(rng, 400_000)], RISKS, rtol=0.02)


@pytest.mark.parametrize("n", [150, 600])
def test_the_exact_test_is_wrong_as_rarely_as_it_says(n):
    count, certified = violations(bernoulli, n, binomial.p_value, n)
    assert count <= MOST
    assert certified > (0.8 if n == 150 else 1.0)  # the oracle certifies 2; the second is close to the limit


@pytest.mark.parametrize("draw", [bernoulli, beta, independent])
@pytest.mark.parametrize("n", [150, 600])
def test_betting_is_wrong_as_rarely_as_it_says(draw, n):
    count, certified = violations(draw, n, betting.p_value, n)
    assert count <= MOST
    if n == 600:
        assert certified > 1.0


def test_stopping_whenever_one_likes_is_wrong_as_rarely_as_it_says():
    """The third setting, whose risk is the limit and more, ever passing in 400 units."""
    rng = np.random.default_rng(7)
    ever = sum(betting.p_value(bernoulli(rng, 400)[2], LIMIT) <= DELTA for _ in range(REPETITIONS))
    assert ever <= MOST


def test_the_rate_at_the_limit_itself_is_not_far_below_what_it_may_be():
    """Not vacuous: at a risk of exactly the limit the exact test is wrong at nearly its level."""
    rng = np.random.default_rng(3)
    counts = rng.binomial(600, LIMIT, REPETITIONS)
    wrong = sum(binomial.tail(int(k), 600, LIMIT) <= DELTA for k in counts)
    assert 0.06 * REPETITIONS < wrong <= MOST


@pytest.mark.parametrize(("n", "exact", "betted"), [(500, 0.070, 0.080), (2000, 0.062, 0.066)])
def test_bounds_are_close_to_a_risk_of_five_per_cent(n, exact, betted):
    """On average over samples; losses of 0 and 1 have the largest variance, for which betting is weakest."""
    rng = np.random.default_rng(5)
    samples = [bernoulli(rng, n)[0] for _ in range(30)]
    assert 0.05 < np.mean([binomial.upper_bound(values, 0.05) for values in samples]) < exact
    assert 0.05 < np.mean([betting.upper_bound(values, 0.05) for values in samples]) < betted
    for draw in (independent, beta):
        bounds = [betting.upper_bound(draw(rng, n)[0], 0.05) for _ in range(30)]
        assert 0.05 < np.mean(bounds) < betted - 0.003


def test_certifying_with_both_halves_of_the_level_is_still_rarely_wrong():
    """Two methods at half the level each: the probability that either is wrong."""
    rng = np.random.default_rng(11)
    level, wrong = sequence.share(DELTA, 2), 0
    for _ in range(REPETITIONS):
        pair = bernoulli(rng, 300)[2], bernoulli(rng, 300)[2]
        wrong += any(binomial.p_value(values, LIMIT) <= level for values in pair)
    assert wrong <= MOST
