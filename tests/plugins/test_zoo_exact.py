# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from reference import golden, sensitivity
from tokenprune_plugins import zoo_exact
from tokenprune_plugins.zoo import ZooScorer
from tokenprune_plugins.zoo_exact import (
    ZooExactScorer,
    squared_jacobian,
    squared_jacobian_by_jvp,
    squared_jacobian_with_norm,
)
from torch import nn

import tokenprune

ACTIVATIONS = {
    "gelu": nn.functional.gelu,
    "gelu-tanh": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
    "relu": nn.functional.relu,
    "quick-gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


def random_form(act, seed=0, d_v=6, patches=1, d_h=9, d=5, norm=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    return tokenprune.LinearForm(
        draw(d_h, patches * d_v), draw(d_h), act, draw(d, d_h), draw(d), draw(d_v) if norm else None
    )


def tokens_of(rows, projector):
    return tokenprune.VisualTokens(
        features=tokenprune.Projector.wrap(projector)(rows),
        signals={"pre_features": rows, "projector": projector},
    )


def test_by_hand_on_a_scalar_projector():
    # M(x) = 2 tanh(3 x_1): J = (6 (1 - tanh(3 x_1)^2), 0), || J || / sqrt(2)
    form = tokenprune.LinearForm(
        torch.tensor([[3.0, 0.0]]), None, torch.tanh, torch.tensor([[2.0]]), torch.tensor([9.0])
    )
    rows = torch.tensor([[0.0, 1.0], [0.1, 2.0], [-0.2, 3.0], [0.5, 4.0]])
    by_hand = [6 * (1 - math.tanh(3 * x) ** 2) / math.sqrt(2) for x in (0.0, 0.1, -0.2, 0.5)]
    assert ZooExactScorer().score(tokens_of(rows, form)).tolist() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("act", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_closed_form_equals_autograds_jacobian(act):
    form = random_form(act)
    rows = torch.randn(7, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slow = sensitivity.jacobian_norm(lambda x: form(x.unsqueeze(0)).squeeze(0), rows)
    torch.testing.assert_close((squared_jacobian(form, rows) / 6).sqrt(), slow, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("act", ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize("patches", [1, 4])
def test_closed_form_with_norm_equals_autograds_jacobian(act, patches):
    form = random_form(act, patches=patches, norm=True)
    rows = torch.randn(5, patches, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slow = sensitivity.jacobian_norm(lambda x: form(x.unsqueeze(0)).squeeze(0), rows)
    squared = squared_jacobian_with_norm(form, rows)
    torch.testing.assert_close((squared / (6 * patches)).sqrt(), slow, rtol=1e-11, atol=1e-12)


def test_one_patch_may_come_without_its_axis():
    form = random_form(torch.tanh, norm=True)
    rows = torch.randn(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    flat = squared_jacobian_with_norm(form, rows)
    assert torch.equal(flat, squared_jacobian_with_norm(form, rows.unsqueeze(1)))


def test_forward_mode_equals_autograds_jacobian_for_any_projector():
    weight = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def gated(x):  # no linear -> activation -> linear
        return nn.functional.layer_norm((x @ weight).sigmoid() * x, (6,))

    rows = torch.randn(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slow = sensitivity.jacobian_norm(lambda x: gated(x.unsqueeze(0)).squeeze(0), rows)
    torch.testing.assert_close(
        (squared_jacobian_by_jvp(gated, rows) / 6).sqrt(), slow, rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("patches", [1, 2])
def test_forward_mode_equals_the_closed_form(patches, monkeypatch):
    form = random_form(nn.functional.gelu, patches=patches, norm=True, dtype=torch.float32)
    rows = torch.randn(5, patches, 6, generator=torch.Generator().manual_seed(1))
    closed = ZooExactScorer().score(tokens_of(rows, form))
    opaque = tokens_of(rows, tokenprune.Projector(form))
    torch.testing.assert_close(ZooExactScorer().score(opaque), closed, rtol=1e-4, atol=0)
    monkeypatch.setattr(zoo_exact, "BLOCK", 2 * rows.numel())  # two tangents at a time
    torch.testing.assert_close(ZooExactScorer().score(opaque), closed, rtol=1e-4, atol=0)


def test_golden_scores():
    vectors = golden.load("zoo_score_n64")
    form = tokenprune.LinearForm(
        vectors["W1"], vectors["b1"], nn.functional.gelu, vectors["W2"], vectors["b2"]
    )
    scores = ZooExactScorer().score(tokens_of(vectors["X"], form))
    torch.testing.assert_close(scores.double(), vectors["S_frobenius"], rtol=1e-5, atol=0)


def test_ranks_tokens_like_the_sampled_estimator_better_than_that_does_under_another_seed():
    generator = torch.Generator().manual_seed(0)

    def draw(rows, columns, scale):
        return torch.randn(rows, columns, generator=generator) * scale

    n, d_v, d_h, d = 576, 256, 384, 384
    form = tokenprune.LinearForm(
        draw(d_h, d_v, 1.5 * d_v**-0.5),
        draw(1, d_h, 0.5).squeeze(0),
        nn.functional.gelu,
        draw(d, d_h, d_h**-0.5),
        None,
    )
    rows = draw(n, d_v, 1.0) * (0.5 + torch.rand(n, 1, generator=generator))  # tokens differ in length
    tokens = tokens_of(rows, form)
    exact = ZooExactScorer().score(tokens)
    first, second = (ZooScorer(seed=seed).score(tokens) for seed in (0, 1))
    between_banks = sensitivity.spearman(first, second)
    assert between_banks > 0.8
    assert sensitivity.spearman(exact, first) > between_banks
    assert sensitivity.spearman(exact, second) > between_banks


def test_a_linear_projector_gives_exactly_equal_scores():
    rows = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    identity = random_form(lambda x: x, dtype=torch.float32)
    for projector in (identity, tokenprune.Projector(identity)):
        scores = ZooExactScorer().score(tokens_of(rows, projector))
        assert scores.unique().numel() == 1 and scores[0] > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_scored_in_float32(dtype):
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 5))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    half = module.to(dtype)
    rows = torch.randn(12, 6, generator=generator).to(dtype)
    scores = ZooExactScorer().score(tokens_of(rows, half))
    assert scores.dtype == torch.float32
    assert torch.equal(scores, ZooExactScorer().score(tokens_of(rows.float(), half.float())))


@pytest.mark.parametrize("norm", [False, True])
def test_a_stack_is_scored_like_its_images_one_by_one(norm):
    form = random_form(nn.functional.gelu, patches=4, norm=norm, dtype=torch.float32)
    rows = torch.randn(3, 10, 4, 6, generator=torch.Generator().manual_seed(2))
    stack = tokenprune.VisualTokens(torch.zeros(3, 10, 5), {"pre_features": rows, "projector": form})
    apart = torch.stack([ZooExactScorer().score(tokens_of(image, form)) for image in rows])
    torch.testing.assert_close(ZooExactScorer().score(stack), apart, rtol=1e-5, atol=0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_scores_are_the_same_where_gradients_are_off(mode):
    form = random_form(nn.functional.gelu, dtype=torch.float32)
    rows = torch.randn(10, 6, generator=torch.Generator().manual_seed(2))
    wanted = ZooExactScorer().score(tokens_of(rows, form))
    with mode():
        assert torch.equal(ZooExactScorer().score(tokens_of(rows * 1, form)), wanted)


def test_the_method_is_this_scorer_with_the_papers_selector():
    method = tokenprune.method("zoo-exact").resolved()
    paper = tokenprune.method("zoo-prune").resolved()
    assert isinstance(method.scorer, ZooExactScorer)
    assert (method.selector, method.scope, method.newlines) == (paper.selector, paper.scope, paper.newlines)


@pytest.mark.parametrize("norm", [False, True])
def test_low_memory_gives_the_same_and_keeps_nothing(norm):
    generator = torch.Generator().manual_seed(3)
    W1, W2 = torch.randn(12, 8, generator=generator), torch.randn(5, 12, generator=generator)
    weight = torch.rand(4, generator=generator) if norm else None
    form = tokenprune.LinearForm(W1, None, torch.nn.functional.gelu, W2, None, weight)
    rows = torch.randn(7, 2, 4, generator=generator) if norm else torch.randn(7, 8, generator=generator)
    tokens = tokenprune.VisualTokens(form(rows), {"pre_features": rows, "projector": form})
    frugal = tokenprune.scorer("zoo-exact", low_memory=True).score(tokens)
    assert not form._derived
    assert torch.equal(tokenprune.scorer("zoo-exact").score(tokens), frugal)
    assert {tuple(kept.shape) for kept in form._derived.values()} == {(12, 12)}


@pytest.mark.parametrize("norm", [False, True], ids=["linear", "with norm"])
def test_products_in_bfloat16_rank_as_float32(norm):
    generator = torch.Generator().manual_seed(0)

    def draw(rows, columns):
        return torch.randn(rows, columns, generator=generator) / columns**0.5

    patches, d_v, d_h = (4, 64, 256) if norm else (1, 256, 1024)
    form = tokenprune.LinearForm(
        draw(d_h, patches * d_v),
        draw(1, d_h)[0],
        nn.functional.gelu,
        draw(d_h, d_h),
        None,
        torch.ones(d_v) if norm else None,
    )
    shape = (576, patches, d_v) if norm else (576, d_v)
    tokens = tokens_of(2 * torch.randn(shape, generator=generator), form)
    plain = ZooExactScorer(products="float32").score(tokens)
    rounded = ZooExactScorer(products="bfloat16").score(tokens)
    assert not torch.equal(plain, rounded)
    torch.testing.assert_close(rounded, plain, rtol=2e-3, atol=0)
    assert sensitivity.spearman(plain, rounded) > 0.999
    assert torch.equal(ZooExactScorer().score(tokens), plain)  # auto, on a CPU


def test_unknown_products_are_refused():
    with pytest.raises(tokenprune.OptionError, match="'auto', 'float32', 'bfloat16', got 'fp8'"):
        ZooExactScorer(products="fp8")
