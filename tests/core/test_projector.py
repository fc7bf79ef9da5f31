# SPDX-License-Identifier: Apache-2.0
"""The projector as strategies see it: in float32 always, with its closed form where there is one."""

import pytest
import torch
from torch import nn

from tokenprune import LinearForm, Projector
from tokenprune.projector import linear_weights, two_layer_form


def mlp(dtype=torch.float32, act=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), act or nn.GELU(), nn.Linear(8, 3)).to(dtype)


ROWS = torch.linspace(-2, 2, 20).view(5, 4)


def test_a_projector_is_wrapped_as_itself():
    projector = Projector(torch.sin)
    assert Projector.wrap(projector) is projector


def test_a_function_runs_and_has_no_closed_form():
    projector = Projector.wrap(torch.sin)
    assert torch.equal(projector(ROWS), ROWS.sin())
    assert projector.linear_form() is None


def test_a_module_gives_what_it_computes_and_its_closed_form():
    module = mlp()
    projector = Projector.wrap(module)
    assert torch.equal(projector(ROWS), module(ROWS))
    form = projector.linear_form()
    assert torch.equal(form.W1, module[0].weight)
    assert torch.equal(form.b2, module[2].bias)
    assert torch.allclose(form(ROWS), module(ROWS), atol=1e-6)


def test_a_form_is_its_own_projector():
    form = two_layer_form(mlp()[0], nn.functional.gelu, mlp()[2])
    projector = Projector.wrap(form)
    assert projector.linear_form() is form
    assert torch.equal(projector(ROWS), form(ROWS))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_modules_run_in_float32_and_stay_as_they_are(dtype):
    module = mlp(dtype)
    exact = mlp()
    exact.load_state_dict(module.state_dict())
    projector = Projector.wrap(module)
    moved = projector(ROWS.to(dtype))
    assert moved.dtype == torch.float32
    assert torch.equal(moved, exact(ROWS.to(dtype).float()))
    assert {p.dtype for p in module.parameters()} == {dtype}
    form = projector.linear_form()
    assert {form.W1.dtype, form.b1.dtype, form.W2.dtype, form.b2.dtype} == {torch.float32}


def test_integer_buffers_stay_integers():
    class Permuted(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3, dtype=torch.bfloat16)
            self.register_buffer("order", torch.tensor([2, 0, 1]))

        def forward(self, rows):
            return self.linear(rows)[..., self.order]

    module = Permuted()
    expected = nn.functional.linear(ROWS, module.linear.weight.float(), module.linear.bias.float())
    assert torch.allclose(Projector.wrap(module)(ROWS), expected[:, [2, 0, 1]], atol=1e-6)


def test_the_closed_form_is_read_once():
    calls = []

    def read():
        calls.append(1)
        return two_layer_form(mlp()[0], nn.functional.gelu, mlp()[2])

    projector = Projector(mlp(), read)
    assert projector.linear_form() is projector.linear_form()
    assert calls == [1]


def test_a_form_without_norm_is_the_formula():
    form = LinearForm(torch.eye(2), torch.tensor([1.0, -1.0]), torch.relu, torch.tensor([[1.0, 2.0]]), None)
    # relu([3, 4] + [1, -1]) = [4, 3], and 4 + 2 * 3 = 10; relu([-3, 0] + [1, -1]) = [0, 0]
    assert form(torch.tensor([[3.0, 4.0], [-3.0, 0.0]])).tolist() == [[10.0], [0.0]]


def test_a_form_with_norm_normalises_each_patch_on_its_own():
    weight = torch.tensor([1.0, 2.0])
    form = LinearForm(torch.eye(4), None, torch.relu, torch.ones(1, 4), None, weight, norm_eps=0.0)
    rows = torch.tensor([[[3.0, 3.0], [5.0, -5.0]]])  # both patches have a root mean square of 3 and 5
    assert form.hidden(rows).tolist() == [[1.0, 2.0, 1.0, -2.0]]
    assert form(rows).tolist() == [[4.0]]


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(4, 3),
        nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)),
        nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3)),
        nn.Sequential(nn.Linear(4, 8), nn.PReLU(), nn.Linear(8, 3)),  # its slope is a parameter
        nn.Sequential(nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 3)),
    ],
)
def test_other_modules_run_but_have_no_closed_form(module):
    projector = Projector.wrap(module)
    assert torch.allclose(projector(ROWS), module(ROWS), atol=1e-6)
    assert projector.linear_form() is None


def test_weights_of_a_quantised_layer_cannot_be_read():
    quantised = nn.Linear(4, 8)
    quantised.weight = nn.Parameter(torch.zeros(8, 4, dtype=torch.int8), requires_grad=False)
    assert linear_weights(quantised) is None
    assert two_layer_form(quantised, torch.relu, nn.Linear(8, 3)) is None


def test_a_bias_is_optional():
    assert linear_weights(nn.Linear(4, 8, bias=False))[1] is None


def test_scoring_leaves_no_gradient_behind():
    module = mlp()
    form = Projector.wrap(module).linear_form()
    assert not any(t.requires_grad for t in (form.W1, form.b1, form.W2, form.b2))
    assert not Projector.wrap(module)(ROWS).requires_grad
