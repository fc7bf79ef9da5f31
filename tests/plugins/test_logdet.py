# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import otprune as slow
from reference.picks import assert_same_picks
from tokenprune_plugins import logdet as plugin
from tokenprune_plugins.logdet import ColumnKernel, largest_log_det, unit_columns

import tokenprune

# columns of length 5 and 2; rows of V (0.6, 0), (0.8, 0), (0, -1), (0, 0); S is a projection, so S S^T = S
ROWS = torch.tensor([[3.0, 0.0], [4.0, 0.0], [0.0, -2.0], [0.0, 0.0]])


def order_of(features, scores, keep, **options):
    tokens = tokenprune.VisualTokens(features)
    return tokenprune.selector("logdet", **options).select(tokens, scores, keep).order.tolist()


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_by_hand():
    # variances 1.36, 1.64, 2, 1; after token 1 token 0 has 1.36 - 0.48^2 / 1.64 = 1.2195
    assert order_of(ROWS, None, keep=4, gamma=1.0) == [2, 1, 0, 3]


def test_scores_scale_variances_by_their_squares():
    # 1.36, 1.64 / 4, 0, 1 -> 0; then 1: (1.64 - 0.48^2 / 1.36) / 4 = 0.3676, 3: 1
    scores = torch.tensor([1.0, 0.5, 0.0, 1.0])
    assert order_of(ROWS, scores, keep=4, gamma=1.0) == [0, 3, 1, 2]


def test_negative_scores_count_as_0():
    assert order_of(ROWS, torch.tensor([1.0, 0.5, -3.0, 1.0]), keep=4, gamma=1.0) == [0, 3, 1, 2]


@pytest.mark.parametrize("scale", [1e-2, 1e-9, 1e-15, 1e9])
def test_the_unit_of_the_scores_does_not_matter(scale):
    features, r = normal(30, 8), torch.rand(30, generator=torch.Generator().manual_seed(1))
    assert order_of(features, scale * r, 30) == order_of(features, r, 30)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 14),
    width=st.sampled_from([1, 3, 13, 14, 40]),
    gamma=st.sampled_from([0.01, 1.0, 50.0]),
    scored=st.booleans(),
    data=st.data(),
)
def test_equals_largest_determinants_with_fewer_or_more_columns_than_tokens(
    seed, n, width, gamma, scored, data
):
    keep = data.draw(st.integers(1, n))
    generator = torch.Generator().manual_seed(seed)
    features = 3 * torch.randn(n, width, generator=generator) + torch.randn(width, generator=generator)
    scores = torch.rand(n, generator=generator) if scored else None
    want, margins = slow.otprune(features, keep, gamma, scores)
    assert_same_picks(order_of(features, scores, keep, gamma=gamma), want, margins, 1e-5 * gamma + 1e-6)


@pytest.mark.parametrize("width", [5, 24, 60])
def test_the_kernel_is_that_of_the_equation(width):
    features = normal(24, width)
    kernel, want = ColumnKernel(features), torch.from_numpy(slow.kernel(features, 1.0)) - torch.eye(24)
    columns = torch.stack([kernel.column(torch.tensor([slot])) for slot in range(24)], -1)
    torch.testing.assert_close(columns.double(), want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(kernel.diagonal().double(), want.diagonal(), rtol=1e-5, atol=1e-6)


def test_columns_of_any_size_have_length_1_and_zeros_stay_zeros():
    features = normal(9, 4) * torch.tensor([1e-15, 1.0, 1e12, 0.0])
    assert unit_columns(features).norm(dim=0).tolist() == pytest.approx([1, 1, 1, 0])


def test_the_scale_of_a_column_does_not_matter():
    features, scale = normal(40, 12), 2.0 ** torch.arange(-6, 6)
    assert order_of(features * scale, None, 20) == order_of(features, None, 20)


def test_a_column_of_zeros_changes_nothing():
    with_zeros = torch.cat([ROWS, torch.zeros(4, 3)], -1)
    assert order_of(with_zeros, None, keep=4, gamma=1.0) == [2, 1, 0, 3]
    assert order_of(torch.zeros(5, 3), None, keep=3) == [0, 1, 2]


def test_copies_and_more_picks_than_dimensions_are_picked_once():
    features = normal(10, 3).repeat(4, 1)
    assert sorted(order_of(features, None, 40)) == list(range(40))


def test_a_stack_is_chosen_like_its_images_one_by_one():
    features, r = normal(3, 30, 12), torch.rand(3, 30, generator=torch.Generator().manual_seed(0))
    apart = torch.cat([largest_log_det(f[None], s[None], 0.01, 9) for f, s in zip(features, r, strict=True)])
    assert torch.equal(largest_log_det(features, r, 0.01, 9), apart)


@pytest.mark.parametrize("width", [7, 50])
@pytest.mark.parametrize("scored", [True, False])
def test_the_loop_of_accelerators_picks_the_same(width, scored):
    features = normal(3, 30, width, seed=width)
    r = torch.rand(3, 30, generator=torch.Generator().manual_seed(2)) if scored else torch.ones(3, 30)
    kernels = [ColumnKernel(rows) for rows in features]
    in_stack = plugin._pick_in_stack(kernels, r.double().square(), 0.01, 30)
    assert in_stack.tolist() == largest_log_det(features, r, 0.01, 30).tolist()


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan"), float("inf")])
def test_a_gamma_that_is_not_positive_is_refused(gamma):
    with pytest.raises(tokenprune.OptionError, match=f"gamma must be a positive number, got {gamma}"):
        tokenprune.selector("logdet", gamma=gamma)
