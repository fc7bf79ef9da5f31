# SPDX-License-Identifier: Apache-2.0
"""What `zoo-exact` keeps of the projector's weights is made anew however they change under a handle."""

import pytest
import tiny_models
import torch
from model_cases import Case
from tiny_models import llava_inputs, qwen_inputs
from torch import nn

import tokenprune

INPUTS = {
    "llava": lambda: llava_inputs((3, "I", 5)),
    "qwen": lambda: qwen_inputs((3, ("I", 4, 4), 5)),
}


def layers_of(projector):
    return [module for module in projector.modules() if isinstance(module, nn.Linear)]


def in_place(first):
    """Torch sees it; the sum of the weights is what it was."""
    with torch.no_grad():
        first.weight.copy_(first.weight.flip(-1))


def behind_torchs_back(first):
    """Torch's counter of changes stays."""
    before = first.weight._version
    first.weight.data.mul_(1.5)
    assert first.weight._version == before


def by_numpy(first):
    first.weight.detach().numpy()[:] *= 1.5


def by_another_parameter(first):
    """Of the same sum, never changed."""
    first.weight = nn.Parameter(first.weight.detach().flip(-1).clone())


def by_a_state_dict(first):
    first.load_state_dict({name: value.flip(-1) for name, value in first.state_dict().items()})


def by_assigning_a_state_dict(first):
    first.load_state_dict({k: v.flip(-1).clone() for k, v in first.state_dict().items()}, assign=True)


def by_an_optimiser(first):
    first.weight.grad = torch.randn(first.weight.shape, generator=torch.Generator().manual_seed(0))
    torch.optim.SGD([first.weight], lr=0.1).step()
    first.weight.grad = None


def in_inference_mode(first):
    """Weights made there have no counter of changes."""
    with torch.inference_mode():
        first.weight = nn.Parameter(1.5 * first.weight, requires_grad=False)


CHANGES = [
    in_place,
    behind_torchs_back,
    by_numpy,
    by_another_parameter,
    by_a_state_dict,
    by_assigning_a_state_dict,
    by_an_optimiser,
    in_inference_mode,
]


def scores_of(model, inputs, handle):
    with torch.no_grad():
        model(**inputs)
    return handle.last.images[0].scores


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("which", [0, -1], ids=["first", "second"])
@pytest.mark.parametrize("family", ["llava", "qwen"])
def test_scores_are_those_of_a_model_that_had_these_weights_from_the_start(family, which, change):
    model, inputs = getattr(tiny_models, family)(), INPUTS[family]()
    projector = model.model.visual.merger if family == "qwen" else model.model.multi_modal_projector
    layer = layers_of(projector)[which]
    for method in ("zoo-exact", tokenprune.method("zoo-exact", low_memory=True)):
        with tokenprune.apply(model, method=method, keep=4) as handle:
            before = scores_of(model, inputs, handle)
            change(layer)
            got = scores_of(model, inputs, handle)
        with tokenprune.apply(model, method=method, keep=4) as handle:
            want = scores_of(model, inputs, handle)
        assert torch.equal(got, want)
        assert not torch.allclose(got, before, rtol=1e-4)


@pytest.mark.parametrize("method", ["zoo-exact", "zoo-prune", "visionzip"])
def test_an_activation_that_is_exchanged_is_seen(method):
    """It has no weights."""
    model, inputs = tiny_models.llava(), llava_inputs((3, "I", 5))
    projector = model.model.multi_modal_projector
    with tokenprune.apply(model, method=method, keep=4) as handle:
        scores_of(model, inputs, handle)
        projector.act = nn.Tanh()
        got = model(**inputs).logits, handle.last.images[0].scores
    with tokenprune.apply(model, method=method, keep=4) as handle:
        want = model(**inputs).logits, handle.last.images[0].scores
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


def test_unchanged_weights_are_read_once():
    case = Case("llava")
    with tokenprune.apply(case.model, method="zoo-exact", keep=4):
        adapter = tokenprune.default_registry().adapter_for(case.model)(case.model)
        first = adapter.current_projector()
        assert adapter.current_projector() is first
        assert first.linear_form() is first.linear_form()
