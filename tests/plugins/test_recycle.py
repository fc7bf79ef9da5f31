# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import golden
from reference.sparsevlm import density_peak_means as slow_means
from tokenprune_plugins.recycle import RecycleReducer, density_peak_means, n_recycled, n_recycled_rows

import tokenprune


def test_golden_cluster_means():
    vectors = golden.load("sparsevlm_cluster_n33_c4")
    means = density_peak_means(vectors["x"][0], int(vectors["cluster_num"]))
    torch.testing.assert_close(means, vectors["merged"][0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("n", "n_clusters"), [(33, 4), (170, 17), (8, 1), (5, 5)])
def test_cluster_means_equal_the_slow_reference(n, n_clusters):
    rows = torch.randn(n, 16, generator=torch.Generator().manual_seed(n))
    slow = torch.from_numpy(slow_means(rows, n_clusters)).float()
    torch.testing.assert_close(density_peak_means(rows, n_clusters), slow, rtol=0, atol=1e-5)


def test_cluster_means_by_hand():
    # on a line: 0.1 is densest, 9.4 densest of the right group, then 9.9 (separation 0.5 x density 0.70)
    # beats 9.0 (0.4 x 0.72), and the far 50, whose density is 0, joins 9.9
    rows = torch.tensor([[0.0], [0.1], [0.3], [9.0], [9.4], [9.9], [50.0]])
    assert density_peak_means(rows, 3).flatten().tolist() == pytest.approx([0.4 / 3, 9.2, 29.95])


def test_two_centres_of_one_density_come_as_topk_gives_them():
    # two clusters made of the two closest rows, which are equally dense and equally far from denser ones
    for seed in range(20):
        rows = torch.randn(16, 8, generator=torch.Generator().manual_seed(seed))
        distance = torch.cdist(rows.double(), rows.double()) / 8**0.5
        density = (-distance.sort(-1).values[:, :2].square().mean(-1)).exp()
        far = distance.where(density > density[:, None], distance.max()).amin(-1)
        centres = (density * far).float().topk(2).indices
        assert (density[centres[0]] - density[centres[1]]).abs() < 1e-12
        cluster = distance[:, centres].argmin(-1)
        cluster[centres] = torch.arange(2)
        wanted = torch.stack([rows[cluster == 0].mean(0), rows[cluster == 1].mean(0)])
        torch.testing.assert_close(density_peak_means(rows, 2), wanted)


def test_how_many_are_recycled_by_hand():
    # 24 of 64 dropped: int(7.2) + 1 = 8 recycled into one row; 510 of 576: int(153.0) + 1 = 154 into 16
    assert (n_recycled(24), n_recycled_rows(24)) == (8, 1)
    assert (n_recycled(510), n_recycled_rows(510)) == (154, 16)


@given(n=st.integers(2, 1200), data=st.data())
def test_chosen_and_recycled_rows_make_up_the_budget(n, data):
    keep = data.draw(st.integers(1, n - 1))
    chosen = RecycleReducer().n_selected(keep, n)
    if chosen > 1 or chosen + n_recycled_rows(n - chosen) == keep:
        assert chosen + n_recycled_rows(n - chosen) == keep
    else:  # a budget below what the rule can express
        assert keep < 1 + n_recycled_rows(n - 1)


def test_rows_by_hand():
    # keep 5 of 8: 4 chosen and, of the 4 dropped, int(1.2) + 1 = 2 recycled into 1 row: tokens 5 and 2
    features = torch.arange(8.0).unsqueeze(-1)
    scores = torch.tensor([0.9, 0.8, 0.5, 0.1, 0.7, 0.6, 0.2, 0.95])
    tokens = tokenprune.VisualTokens(features)
    method = tokenprune.Method("pair", scorer=Fixed(scores), selector="topk", reducer="recycle")
    chosen = method.select(tokens, keep=5)
    assert chosen.indices.tolist() == [0, 1, 4, 7, -1]
    assert chosen.features.flatten().tolist() == [0.0, 1.0, 4.0, 7.0, pytest.approx(3.5)]


class Fixed(tokenprune.Scorer):
    name = "fixed"

    def __init__(self, scores):
        self.scores = scores

    def score(self, tokens):
        return self.scores


def test_equal_rows_are_recycled_into_one_of_them():
    chosen = tokenprune.Method("pair", scorer="random", selector="topk", reducer="recycle").select(
        tokenprune.VisualTokens(torch.ones(64, 4)), keep=20
    )
    assert torch.allclose(chosen.features, torch.ones(20, 4))


def test_without_scores_all_dropped_tokens_are_recycled():
    features = torch.arange(8.0).unsqueeze(-1)
    method = tokenprune.Method("pair", scorer="uniform", selector="topk", reducer="recycle")
    chosen = method.select(tokenprune.VisualTokens(features), keep=5)  # 1, 3, 5, 7 stay
    assert chosen.features.flatten().tolist() == [1.0, 3.0, 5.0, 7.0, pytest.approx((0 + 2 + 4 + 6) / 4)]
