# SPDX-License-Identifier: Apache-2.0
"""Closed forms against the projectors they stand for, with weights that are none of their defaults.

Fresh models have norms of ones (or zeros) and, in Gemma 3, a matrix of zeros: any form agrees with those.
"""

import pytest
import tiny_families as families
import torch

import tokenprune

NAMES = ("qwen2_vl", "qwen3_vl", "internvl", "gemma3", "smolvlm", "idefics3", "mistral3", "paligemma")


@pytest.fixture(params=NAMES)
def adapter(request):
    model = families.build(request.param, "sdpa")
    found = tokenprune.default_registry().adapter_for(model)(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in found.projector_parts().parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return found


def rows_for(adapter, form, n=5):
    """Rows as the projector takes them, off zero, and centred where its norm centres them."""
    width = form.W1.shape[1] if form.norm_weight is None else len(form.norm_weight)
    patches = form.W1.shape[1] // width
    rows = torch.randn(n, patches, width, generator=torch.Generator().manual_seed(2)) + 0.2
    if adapter.name != "generic" or adapter._rows().centred:
        rows = rows - rows.mean(-1, keepdim=True)
    return rows if patches > 1 else rows.squeeze(1)


def test_the_form_gives_what_the_projector_gives(adapter):
    projector = adapter.projector()
    form = projector.linear_form()
    rows = rows_for(adapter, form)
    out = projector(rows)
    assert out.norm() > 0.1
    torch.testing.assert_close(form(rows), out, atol=1e-4, rtol=1e-3)


def test_zoo_exact_is_the_norm_of_the_projectors_jacobian(adapter):
    projector = adapter.projector()
    rows = rows_for(adapter, projector.linear_form(), 3)
    signals = {"pre_features": rows, "projector": projector}
    tokens = tokenprune.VisualTokens(torch.zeros(len(rows), 4), signals)
    scores = tokenprune.scorer("zoo-exact").score(tokens)
    for row, score in zip(rows, scores, strict=True):
        jacobian = torch.autograd.functional.jacobian(projector, row[None])
        torch.testing.assert_close(score, jacobian.norm() / row.numel() ** 0.5, rtol=1e-3, atol=1e-5)
