# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import golden, prunesid
from tokenprune_plugins import similar_groups
from tokenprune_plugins.similar_groups import merged_threshold, ranked, tower_threshold

from tokenprune.functional import unit_rows

LLAVA = sorted(
    {"prunesid_llava_n64_T16_b1", "prunesid_llava_n64_T16_b3"}
    | {p.stem for p in golden.FOLDER.glob("prunesid_llava_*.npz")}
)
QWEN = sorted({"prunesid_qwen_n64_T192"} | {p.stem for p in golden.FOLDER.glob("prunesid_qwen_*.npz")})
ANGLES = torch.tensor([0.0, 10, 20, 30, 90, 100]).deg2rad()
FAN = torch.stack([ANGLES.cos(), ANGLES.sin()], 1)


def limit_of(degrees):
    return float(torch.tensor(degrees).deg2rad().cos())


@pytest.mark.parametrize("name", LLAVA)
def test_golden_thresholds_and_survivors_of_the_llava_code(name):
    vectors = golden.load(name)
    for b, hidden in enumerate(vectors["hidden"].float()):
        unit, n_groups = unit_rows(hidden[1:]), vectors["pca_abs_V"].shape[-1]
        limit = tower_threshold(unit, int(vectors["need_token_num"]))
        assert limit == pytest.approx(float(vectors["threshold_f64"][b]), abs=1e-6)
        scores = vectors["cls_attention"][b, :, 1:].sum(0)
        found = ranked(unit, vectors["groups"][b], scores, limit, n_groups)
        assert torch.equal(found.survivors, vectors["nms_keep_counts"][b])


@pytest.mark.parametrize("name", QWEN)
def test_golden_thresholds_and_survivors_of_the_qwen_code(name):
    vectors = golden.load(name)
    unit = unit_rows(vectors["features"].float())
    total = max(round(len(unit) * int(vectors["need_token_num"]) / 576), 16)
    limit = merged_threshold(unit, total)
    assert limit == pytest.approx(float(vectors["threshold_f64"]), abs=1e-6)
    scores, groups = vectors["pca_abs_V"].max(1)
    found = ranked(unit, groups, scores, limit, vectors["pca_abs_V"].shape[1])
    assert torch.equal(found.survivors, vectors["nms_keep_counts"])


def test_suppression_by_hand():
    # best is 1, which removes 0 and 2 within 15 degrees but not 3; 2 is gone and cannot remove 3
    scores = torch.tensor([0.1, 0.9, 0.8, 0.2, 0.3, 0.5])
    found = ranked(FAN, torch.zeros(6, dtype=torch.long), scores, limit_of(15.0), 1)
    assert found.slots.tolist() == [1, 5, 3, 2, 4, 0]  # survivors, then the others, both by score
    assert (found.survivors.tolist(), found.sizes.tolist()) == ([3], [6])


def test_tokens_of_other_groups_suppress_nothing():
    groups = torch.tensor([0, 2, 0, 2, 0, 2])
    found = ranked(FAN, groups, torch.ones(6), limit_of(15.0), 4)
    assert found.survivors.tolist() == found.sizes.tolist() == [3, 0, 3, 0]
    assert found.slots.tolist() == [0, 2, 4, 1, 3, 5]
    assert found.first(torch.tensor([2, 0, 1, 0])).tolist() == [0, 2, 1]


def test_a_limit_of_1_suppresses_nothing_not_even_equal_rows():
    found = ranked(FAN[:1].expand(4, 2), torch.zeros(4, dtype=torch.long), torch.ones(4), 1.0, 1)
    assert found.survivors.tolist() == [4] and found.slots.tolist() == [0, 1, 2, 3]
    found = ranked(FAN[:1].expand(4, 2), torch.zeros(4, dtype=torch.long), torch.ones(4), 0.99, 1)
    assert found.survivors.tolist() == [1]


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 40), total=st.integers(1, 200))
def test_thresholds_equal_those_of_all_pairs(seed, n, total):
    rows = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed)) + 0.3
    unit = unit_rows(rows)
    assert tower_threshold(unit, total) == pytest.approx(prunesid.tower_threshold(rows, total), abs=1e-5)
    assert merged_threshold(unit, total) == pytest.approx(prunesid.merged_threshold(rows, total), abs=1e-5)


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 40), n_groups=st.integers(1, 5), limit=st.floats(-0.5, 1))
def test_survivors_equal_the_slow_reference(seed, n, n_groups, limit):
    generator = torch.Generator().manual_seed(seed)
    unit = unit_rows(torch.randn(n, 3, generator=generator))
    groups = torch.randint(n_groups, (n,), generator=generator)
    scores = torch.randint(9, (n,), generator=generator).float()
    found, cosine = ranked(unit, groups, scores, limit, n_groups), prunesid.cosines(unit)
    if (torch.from_numpy(cosine) - limit).abs().min() < 1e-6:
        return  # rounding decides
    start = 0
    for g in range(n_groups):
        members = (groups == g).nonzero().squeeze(1).tolist()
        kept = prunesid.survivors(members, scores.tolist(), cosine, limit)
        stop = start + len(kept)
        assert int(found.survivors[g]) == len(kept)
        assert found.slots[start:stop].tolist() == kept
        start += len(members)
        assert sorted(found.slots[stop:start].tolist()) == sorted(set(members) - set(kept))


def test_all_pairs_at_once_as_on_an_accelerator_are_the_same():
    generator = torch.Generator().manual_seed(0)
    unit = unit_rows(torch.randn(30, 4, generator=generator)).double()

    class Elsewhere:
        """Rows that say that they are on an accelerator."""

        device = torch.device("cuda")
        mT = unit.mT

        def double(self):
            return self

        def __matmul__(self, other):
            return unit @ other

    sizes = [7, 0, 20, 3]
    here, there = (list(similar_groups._similar(rows, sizes, 0.4)) for rows in (unit, Elsewhere()))
    assert [block.shape for block in here] == [(size, size) for size in sizes]
    assert all((a == b).all() for a, b in zip(here, there, strict=True))
