# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import golden
from reference.vispruner import vispruner
from tokenprune_plugins import vispruner as plugin
from tokenprune_plugins.vispruner import remove_similar

import tokenprune
from tokenprune.functional import unit_rows


def tokens_of(rows, attention):
    return tokenprune.VisualTokens(
        torch.zeros(len(rows), 3), {"pre_features": rows, "cls_attention": attention}
    )


def test_golden_picks():
    vectors = golden.load("vispruner_n64_T16_r0.5")
    ratio, keep = float(vectors["important_ratio"]), int(vectors["T"])
    for b, mask in enumerate(vectors["mask"]):
        tokens = tokens_of(vectors["features"][b], vectors["cls_patch_attention"][b])
        chosen = tokenprune.method("vispruner", important_ratio=ratio).select(tokens, keep=keep)
        assert chosen.indices.tolist() == mask.nonzero().squeeze(-1).tolist()


def test_removing_by_hand():
    # even places 0, 2, 4; odd 1, 3. Row 4 equals row 1 (cosine 1), then 0 (0.8), then 2 (0.6).
    rows = torch.tensor([[0.8, 0.6], [1.0, 0.0], [0.6, -0.8], [-1.0, 0.0], [2.0, 0.0]])
    assert remove_similar(rows, 4).tolist() == [0, 2, 1, 3]
    assert remove_similar(rows, 3).tolist() == [2, 1, 3]
    assert remove_similar(rows, 2).tolist() == [1, 3]


def test_at_most_8_are_removed_a_round():
    # 8 of the 20 even places go in the first round; the second works on the list that leaves
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 6, generator=generator)
    first = remove_similar(rows, 32)
    assert torch.equal(remove_similar(rows, 30), first[remove_similar(rows[first], 30)])


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 60),
    ratio=st.sampled_from([0.0, 0.5, 0.75, 1.0]),
    data=st.data(),
)
def test_equals_the_slow_reference_for_any_rest_odd_ones_too(seed, n, ratio, data):
    keep = data.draw(st.integers(1, n))
    generator = torch.Generator().manual_seed(seed)
    rows, attention = torch.randn(n, 8, generator=generator), torch.rand(3, n, generator=generator)
    chosen = tokenprune.method("vispruner", important_ratio=ratio).select(tokens_of(rows, attention), keep)
    assert chosen.order.tolist() == vispruner(rows, attention, keep, ratio)
    assert chosen.indices.tolist() == sorted(set(chosen.order.tolist())) and len(chosen) == keep


def by_all_pairs(rows, keep):
    """The rounds of an accelerator, which compare all pairs."""
    unit = unit_rows(rows)
    return plugin._removed_by_all_pairs(unit @ unit.mT, torch.arange(len(rows)), keep)


def of_kind(kind, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if kind == "apart":
        return torch.randn(n, 16, generator=generator)
    few = torch.randn(7, 16, generator=generator)[torch.randint(7, (n,), generator=generator)]
    return few if kind == "equal" else few + 0.1 * torch.randn(n, 16, generator=generator)


@pytest.mark.parametrize("kind", ["apart", "alike", "equal"])
@pytest.mark.parametrize("listed", [1, 3, 16, 500])
def test_short_lists_find_what_all_pairs_do(monkeypatch, kind, listed):
    """However short: those who have nobody on their list look at everybody, and lists are made anew."""
    monkeypatch.setattr(plugin, "N_NEAREST", listed)
    monkeypatch.setattr(plugin, "BLOCK", 100)
    for n, keep in ((257, 3), (300, 64), (64, 63)):
        rows = of_kind(kind, n)
        assert torch.equal(remove_similar(rows, keep), by_all_pairs(rows, keep))


@pytest.mark.parametrize("kind", ["apart", "alike", "equal"])
@pytest.mark.parametrize(("n", "keep"), [(1, 1), (2, 1), (33, 12), (64, 63), (129, 3), (257, 64), (20, 20)])
def test_all_pairs_keep_what_the_lists_of_the_nearest_keep(kind, n, keep):
    rows = of_kind(kind, n, seed=n)
    left = by_all_pairs(rows, keep)
    assert left.tolist() == remove_similar(rows, keep).tolist()
    assert len(left) == keep == len(set(left.tolist()))


def test_rows_of_another_device_are_not_moved_to_the_cpu():
    left = remove_similar(torch.empty(40, 6, device="meta"), 12)
    assert (left.device.type, tuple(left.shape)) == ("meta", (12,))


@pytest.mark.parametrize("kind", ["apart", "alike", "equal"])
def test_what_is_looked_at_grows_with_the_square_of_the_rows(monkeypatch, kind):
    """All pairs of every round would be N^3 / 96 similarities: 25 N^2 for 2400 rows."""
    looked_at, real = [], plugin.Nearest._build_lists

    def counted(self, left):
        looked_at.append(len(left) ** 2 + getattr(self, "_n_comparisons", 0))
        real(self, left)

    monkeypatch.setattr(plugin.Nearest, "_build_lists", counted)
    for n in (600, 1200, 2400):
        looked_at.clear()
        remove_similar(of_kind(kind, n), n // 20)
        assert n**2 <= sum(looked_at) < 4 * n**2


def test_without_scores_look_alikes_are_removed_from_all():
    rows = torch.randn(21, 5, generator=torch.Generator().manual_seed(0))
    chosen = tokenprune.selector("vispruner").select(tokens_of(rows, None), None, 10)
    assert chosen.order.tolist() == remove_similar(rows, 10).tolist()


def test_a_ratio_outside_0_to_1_is_refused():
    with pytest.raises(tokenprune.OptionError, match=r"\[0, 1\], got -0.5"):
        tokenprune.selector("vispruner", important_ratio=-0.5)


def test_without_cls_attention_received_takes_its_place():
    generator = torch.Generator().manual_seed(0)
    rows, received = torch.randn(40, 4, 8, generator=generator), torch.rand(40, generator=generator)
    signals = {"pre_features": rows, "received_attention": received}  # 4 patches a token, as Qwen merges
    tokens = tokenprune.VisualTokens(torch.zeros(40, 3), signals)
    chosen = tokenprune.method("vispruner-received").select(tokens, 12)
    assert chosen.order.tolist() == vispruner(rows.flatten(1), received[None], 12, 0.5)
    by_option = tokenprune.method("vispruner", source="received").select(tokens, 12)
    assert by_option.order.tolist() == chosen.order.tolist()
