# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from tokenprune_plugins import coverage_lazy as plugin
from tokenprune_plugins.coverage import Cosines
from tokenprune_plugins.coverage_lazy import pick_lazily


def of_kind(kind, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if kind == "apart":
        return torch.randn(2, n, 16, generator=generator)
    few = torch.randn(7, 16, generator=generator)[torch.randint(7, (2, n), generator=generator)]
    return few if kind == "equal" else few + 0.1 * torch.randn(2, n, 16, generator=generator)


def weights_of(n, scored):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, n, dtype=torch.float64, generator=generator) if scored else torch.ones(2, n).double()


@pytest.mark.parametrize("kind", ["apart", "alike", "equal"])
@pytest.mark.parametrize("scored", [True, False])
@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("block", [1, 16, 500])
def test_the_lazy_loop_picks_what_computing_every_gain_picks(monkeypatch, kind, scored, adds, block):
    monkeypatch.setattr(plugin, "BLOCK", block)
    monkeypatch.setattr(plugin, "AT_FIRST", 50)
    similarity, weights = Cosines(of_kind(kind, 130)), weights_of(130, scored)
    lazy = pick_lazily(similarity, weights, adds, 130)
    assert torch.equal(lazy, naive(similarity.matrix, weights, adds, 130))
    assert sorted(lazy[0].tolist()) == list(range(130))


def naive(matrix, weights, adds, keep):
    """The values of all tokens for each pick, summed in the order in which NumPy sums a row."""
    orders = []
    for close, weight in zip(matrix.numpy(), weights.numpy(), strict=True):
        cover, order = np.zeros(len(close), np.float32), []
        for _ in range(keep):
            gain = np.maximum(close - cover, 0).astype(np.float64).sum(-1)
            value = gain + weight if adds else gain * weight
            value[order] = -np.inf
            order.append(int(value.argmax()))
            cover = np.maximum(cover, close[order[-1]])
        orders.append(order)
    return torch.tensor(orders)


@pytest.mark.parametrize(("kind", "share"), [("apart", 0.25), ("alike", 0.25), ("equal", 0.1)])
def test_few_values_are_computed_again(monkeypatch, kind, share):
    n, keep, counts, real = 576, 64, [], plugin.LazyValues._compute

    def counted(self, slots):
        counts.append(len(slots))
        real(self, slots)

    monkeypatch.setattr(plugin.LazyValues, "_compute", counted)
    pick_lazily(Cosines(of_kind(kind, n)[:1]), torch.ones(1, n, dtype=torch.float64), False, keep)
    assert n <= sum(counts) < share * n * keep
