# SPDX-License-Identifier: Apache-2.0
"""VisPruner's rounds by all pairs, which accelerators run, keep what its rounds on the CPU keep."""

import pytest
import torch
from tokenprune_plugins import vispruner

from tokenprune.functional import unit_rows


def rows_of(kind, n):
    draw = torch.Generator().manual_seed(n)
    if kind == "apart":
        return torch.randn(n, 16, generator=draw)
    few = torch.randn(7, 16, generator=draw)[torch.randint(7, (n,), generator=draw)]
    return few if kind == "equal" else few + 0.1 * torch.randn(n, 16, generator=draw)


@pytest.mark.parametrize("kind", ["apart", "alike", "equal"])
@pytest.mark.parametrize(("n", "keep"), [(1, 1), (2, 1), (33, 12), (64, 63), (129, 3), (257, 64), (20, 20)])
def test_all_pairs_keep_what_the_lists_of_the_nearest_keep(kind, n, keep):
    rows = rows_of(kind, n)
    unit = unit_rows(rows)
    by_all_pairs = vispruner._removed_by_all_pairs(unit @ unit.mT, torch.arange(n), keep)
    assert by_all_pairs.tolist() == vispruner.remove_similar(rows, keep).tolist()
    assert len(by_all_pairs) == keep == len(set(by_all_pairs.tolist()))


def test_rows_of_another_device_are_not_moved_to_the_cpu():
    left = vispruner.remove_similar(torch.empty(40, 6, device="meta"), 12)
    assert (left.device.type, tuple(left.shape)) == ("meta", (12,))
