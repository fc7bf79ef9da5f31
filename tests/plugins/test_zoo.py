# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from reference import golden, sensitivity
from tokenprune_plugins import zoo
from tokenprune_plugins.zoo import ZooScorer
from torch import nn

import tokenprune


def linear_form(vectors):
    return tokenprune.LinearForm(
        vectors["W1"], vectors["b1"], nn.functional.gelu, vectors["W2"], vectors["b2"]
    )


def tokens_of(rows, projector):
    return tokenprune.VisualTokens(
        features=tokenprune.Projector.wrap(projector)(rows),
        signals={"pre_features": rows, "projector": projector},
    )


@pytest.fixture
def vectors():
    return golden.load("zoo_score_n64")


@pytest.fixture
def mlp():
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 12))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def test_by_hand_on_a_scalar_projector():
    # M(x) = tanh(x_1): moved along (1, 0) by h, (tanh(x + h) - tanh(x - h)) / 2h
    rows = torch.tensor([[0.0, 5.0], [0.5, -1.0], [1.0, 0.0], [2.0, 3.0]])
    tokens = tokens_of(rows, lambda x: x[:, :1].tanh())
    scores = ZooScorer(directions=torch.tensor([[3.0, 0.0]]), step_size=0.1).score(tokens)
    by_hand = [(math.tanh(x + 0.1) - math.tanh(x - 0.1)) / 0.2 for x in (0.0, 0.5, 1.0, 2.0)]
    assert scores.tolist() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("route", ["closed form", "called"])
@pytest.mark.parametrize(("unit", "wanted"), [(True, "S_unit"), (False, "S_gauss")])
def test_golden_scores(vectors, route, unit, wanted):
    form = linear_form(vectors)
    projector = form if route == "closed form" else tokenprune.Projector(form)
    scorer = ZooScorer(directions=vectors["U_raw"], step_size=float(vectors["h"]), unit=unit)
    scores = scorer.score(tokens_of(vectors["X"], projector))
    torch.testing.assert_close(scores.double(), vectors[wanted], rtol=1e-3, atol=0)


@pytest.mark.parametrize(("unit", "wanted"), [(True, "order_hybrid"), (False, "order_hybrid_gauss")])
def test_golden_picks_of_the_whole_method(vectors, unit, wanted):
    method = tokenprune.method("zoo-prune", directions=vectors["U_raw"], unit=unit)
    chosen = method.select(tokens_of(vectors["X"], linear_form(vectors)), keep=int(vectors["K"]))
    assert chosen.order.tolist() == vectors[wanted].tolist()
    assert chosen.indices.tolist() == sorted(vectors[wanted].tolist())


def test_golden_picks_by_score_alone(vectors):
    tokens = tokens_of(vectors["X"], linear_form(vectors))
    scores = ZooScorer(directions=vectors["U_raw"]).score(tokens)
    picks = tokenprune.selector("topk").select(tokens, scores, keep=int(vectors["K"]))
    assert picks.order.tolist() == vectors["order_topk"].tolist()


@pytest.mark.parametrize("route", ["closed form", "called"])
def test_golden_merger_with_norm(route):
    vectors = golden.load("zoo_merger_n64")
    form = tokenprune.LinearForm(
        vectors["W1"],
        vectors["b1"],
        nn.functional.gelu,
        vectors["W2"],
        vectors["b2"],
        vectors["norm_weight"],
        float(vectors["rms_eps"]),
    )
    tokens = tokens_of(vectors["X"], form if route == "closed form" else tokenprune.Projector(form))
    scorer = ZooScorer(directions=vectors["U_raw"])
    torch.testing.assert_close(scorer.score(tokens).double(), vectors["S_unit"], rtol=1e-3, atol=0)
    method = tokenprune.Method("pair", scorer=scorer, selector="diverse")
    assert method.select(tokens, keep=16).order.tolist() == vectors["order_hybrid"].tolist()


def test_equals_the_slow_reference(mlp):
    rows = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
    scorer = ZooScorer(n_directions=5, seed=4)
    scores = scorer.score(tokens_of(rows, mlp))
    bank = scorer.bank(16, rows.device).double()
    slow = sensitivity.sampled(mlp.double().requires_grad_(False), rows.double(), bank, 0.01)
    torch.testing.assert_close(scores.double(), slow, rtol=1e-3, atol=0)


def test_blocks_of_directions_add_up(mlp, monkeypatch):
    rows = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
    tokens = tokens_of(rows, lambda x: mlp(x).detach())
    whole = ZooScorer().score(tokens)
    monkeypatch.setattr(zoo, "CHUNK", 6 * 16 * 3)
    torch.testing.assert_close(ZooScorer().score(tokens), whole)


def test_the_bank_is_seeded_unit_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    bank = ZooScorer(seed=3).bank(50, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(bank, ZooScorer(seed=3).bank(50, torch.device("cpu")))
    assert not torch.equal(bank, ZooScorer(seed=4).bank(50, torch.device("cpu")))
    torch.testing.assert_close(bank.norm(dim=-1), torch.ones(64))


def test_a_linear_projector_gives_exactly_equal_scores():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 16, generator=generator)
    rows = torch.randn(40, 16, generator=generator)
    scores = ZooScorer().score(tokens_of(rows, lambda x: x @ weight.T))
    assert scores.unique().numel() == 1 and scores[0] > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_scored_in_float32(mlp, dtype):
    rows = torch.randn(30, 16, generator=torch.Generator().manual_seed(2)).to(dtype)
    half = mlp.to(dtype)
    scores = ZooScorer().score(tokens_of(rows, half))
    in_float32 = ZooScorer().score(tokens_of(rows.float(), half.float()))
    assert scores.dtype == torch.float32
    assert torch.equal(scores, in_float32)


@pytest.mark.parametrize("route", ["closed form", "called"])
def test_a_stack_is_scored_like_its_images_one_by_one(mlp, route):
    rows = torch.randn(3, 10, 16, generator=torch.Generator().manual_seed(2))
    projector = mlp if route == "closed form" else (lambda x: mlp(x).detach())
    stack = tokenprune.VisualTokens(
        torch.zeros(3, 10, 12), signals={"pre_features": rows, "projector": projector}
    )
    apart = torch.stack([ZooScorer().score(tokens_of(image, projector)) for image in rows])
    torch.testing.assert_close(ZooScorer().score(stack), apart, rtol=1e-5, atol=0)


@pytest.mark.parametrize("options", [{"n_directions": 0}, {"step_size": 0.0}, {"step_size": -1.0}])
def test_senseless_options_are_refused(options):
    with pytest.raises(tokenprune.OptionError, match=next(iter(options))):
        ZooScorer(**options)


def test_a_bank_of_the_wrong_width_is_refused(mlp):
    with pytest.raises(tokenprune.OptionError, match="have width 5, the projector's input has 16"):
        ZooScorer(directions=torch.ones(2, 5)).score(tokens_of(torch.ones(4, 16), mlp))


def test_golden_scores_of_a_projector_cut_to_rank_8(vectors):
    form = linear_form(vectors)
    float_form = tokenprune.LinearForm(
        *(
            x.float() if isinstance(x, torch.Tensor) else x
            for x in (form.W1, form.b1, form.act, form.W2, form.b2)
        )
    )
    tokens = tokens_of(vectors["X"].float(), float_form)
    scores = ZooScorer(directions=vectors["U_raw"], rank=8).score(tokens)
    torch.testing.assert_close(scores, vectors["S_unit_lowrank8"].float(), rtol=1e-3, atol=0)
    whole = ZooScorer(directions=vectors["U_raw"], rank=32).score(tokens)  # D_v = 32: W1 has no higher rank
    assert (whole - vectors["S_unit"].float()).abs().max() < (scores - whole).abs().max()


def test_a_rank_needs_a_projector_whose_weights_can_be_read():
    tokens = tokens_of(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), lambda x: x.tanh())
    with pytest.raises(tokenprune.IncompatibleError, match="rank"):
        ZooScorer(rank=2).score(tokens)
    with pytest.raises(tokenprune.OptionError, match="rank"):
        ZooScorer(rank=0)
