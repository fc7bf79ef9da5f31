# SPDX-License-Identifier: Apache-2.0
"""Rank correlation and common choices, by hand."""

import pytest
import torch

from benchmarks.studies.ranking import ranks, shared_share, spearman
from benchmarks.studies.rankings import spread

T = torch.tensor


def test_ranks_count_from_one_and_equal_values_share_the_mean_of_theirs():
    assert ranks(T([30.0, 10.0, 20.0])).tolist() == [3, 1, 2]
    assert ranks(T([5.0, 1.0, 5.0, 5.0, 0.0])).tolist() == [4, 2, 4, 4, 1]  # places 3, 4 and 5


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 25.0, 99.0], 1.0),  # any increasing map
        ([1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0], -1.0),
        # ranks 1 2 3 4 5 and 2 1 4 3 5: d^2 = 1 + 1 + 1 + 1 + 0; 1 - 6 * 4 / (5 * 24)
        ([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 4.0, 3.0, 5.0], 0.8),
        # ranks 1.5 1.5 3 and 1 2 3, about their mean 2: (0.5 + 1) / sqrt(1.5 * 2)
        ([7.0, 7.0, 9.0], [1.0, 2.0, 3.0], 1.5 / 3**0.5),
    ],
)
def test_spearman_by_hand(one, other, expected):
    assert spearman(T(one), T(other)) == pytest.approx(expected, abs=1e-12)
    assert spearman(T(other), T(one)) == pytest.approx(expected, abs=1e-12)


def test_constant_scores_have_no_ranking():
    assert spearman(T([1.0, 1.0, 1.0]), T([1.0, 2.0, 3.0])) is None


def test_common_choices():
    assert shared_share(T([0, 3, 5, 9]), T([3, 4, 5, 6])) == 0.5


def test_spread_is_mean_and_quartiles():
    assert spread([0.0, 1.0, 2.0, 3.0, 9.0]) == {"mean": 3.0, "low": 1.0, "high": 3.0, "pictures": 5}
    assert spread([]) == {"mean": None, "low": None, "high": None, "pictures": 0}
