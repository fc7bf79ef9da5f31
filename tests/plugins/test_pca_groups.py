# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import golden, prunesid
from tokenprune_plugins.pca_groups import exact_loadings, randomized_loadings

SHAPES = [(30, 80), (80, 30), (40, 40), (1, 5), (2, 9), (9, 2)]
LLAVA = sorted(
    {"prunesid_llava_n64_T16_b1", "prunesid_llava_n64_T16_b3"}
    | {p.stem for p in golden.FOLDER.glob("prunesid_llava_*.npz")}
)


def drawn(n, width, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("q", [1, 4, 24])
def test_exact_loadings_are_those_of_the_svd(shape, q):
    rows = drawn(*shape)
    found = exact_loadings(rows, q)
    want = torch.from_numpy(prunesid.loadings(rows, q))
    torch.testing.assert_close(found, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", LLAVA)
def test_golden_groups_agree_as_far_as_an_exact_svd_does(name):
    vectors = golden.load(name)
    for b, hidden in enumerate(vectors["hidden"].float()):
        found = exact_loadings(hidden[1:], vectors["pca_abs_V"].shape[-1]).argmax(1)
        share = (found == vectors["groups"][b]).double().mean()
        assert share.item() == pytest.approx(float(vectors["group_agreement_exact_pca_f64"][b]), abs=0.01)


def test_two_directions_by_hand():
    # sigmoid is 0.5 plus or minus one half: the large rows are on the first axis, the small on the second
    big, small = torch.tensor([50.0, -50.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0, -1.0])
    found = exact_loadings(torch.stack([big, small, -big]), 3)
    assert found.argmax(1).tolist() == [0, 1, 0]
    torch.testing.assert_close(found[:, 0], torch.tensor([0.5, 0, 0.5]).double().sqrt())
    assert found[:, 2].tolist() == [0, 0, 0]  # the rank is 2


def test_equal_tokens_are_one_group():
    found = exact_loadings(drawn(1, 20).expand(10, 20), 5)
    assert found.argmax(1).tolist() == [0] * 10 and (found[:, 1:] == 0).all()
    assert (exact_loadings(torch.zeros(6, 8), 3) == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_randomized_loadings_are_those_of_pca_lowrank_from_the_same_state(shape):
    rows, q = drawn(*shape), min(4, *shape)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        right = torch.pca_lowrank(rows.sigmoid().mT, q=q)[2]
    found = randomized_loadings(rows, q, seed=7)
    # components without variance are arbitrary: there are fewer than rows minus one, or columns
    rank = min(q, shape[1] - 1)
    torch.testing.assert_close(found[:, :rank], right.abs()[:, :rank], rtol=0, atol=1e-4)


def test_the_global_random_state_is_neither_read_nor_changed():
    rows = drawn(20, 30)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = randomized_loadings(rows, 5, seed=0)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert torch.equal(randomized_loadings(rows, 5, seed=0), first)
    assert not torch.equal(randomized_loadings(rows, 5, seed=1), first)


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 24), width=st.integers(1, 24), q=st.integers(1, 30))
def test_loadings_have_unit_columns_or_none(seed, n, width, q):
    found = exact_loadings(drawn(n, width, seed), q)
    assert found.shape == (n, min(q, n, width))
    length = found.norm(dim=0)
    assert (((length - 1).abs() < 1e-6) | (length == 0)).all()
    assert (length.diff() <= 1e-6).all()  # those without variance come last
