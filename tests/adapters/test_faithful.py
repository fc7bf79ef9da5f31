# SPDX-License-Identifier: Apache-2.0
"""Promise 8: a preset picks what its official code picks, through the whole model."""

import pytest
import tiny_models
import torch
from reference import golden

import tokenprune


def with_features(model, features, method, keep):
    """Prune a model whose projector gives exactly these features; return the picks in order."""
    n = len(features)
    ids = [1, 5, *[tiny_models.IMAGE] * n, 7, 8]
    hook = model.model.multi_modal_projector.register_forward_hook(lambda m, a, out: features[None])
    try:
        with tokenprune.apply(model, method=method, keep=keep) as handle:
            model(**tiny_models.batch([ids], torch.zeros(1, 3, 64, 64)))
            return handle.last.images[0].selection.order.tolist()
    finally:
        hook.remove()


def test_divprune_through_the_model():
    vectors = golden.load("divprune_n64_r0.25_s0")
    features = vectors["features"]
    model = tiny_models.llava(hidden_size=features.shape[1], image_size=64)
    assert with_features(model, features, "divprune", len(vectors["order"])) == vectors["order"].tolist()


@pytest.mark.parametrize("method", ["zoo-prune", "zoo-exact"])
def test_zoo_through_the_model(method):
    """The golden projector's weights and rows in a LLaVA: the golden picks come out."""
    v = {k: t.float() for k, t in golden.load("zoo_score_n64").items()}
    model = tiny_models.llava(hidden_size=len(v["W2"]), image_size=64)
    projector = model.model.multi_modal_projector
    projector.linear_1, projector.linear_2 = (
        torch.nn.Linear(v["W1"].shape[1], v["W1"].shape[0]),
        torch.nn.Linear(v["W2"].shape[1], v["W2"].shape[0]),
    )
    for linear, w, b in ((projector.linear_1, "W1", "b1"), (projector.linear_2, "W2", "b2")):
        linear.weight.copy_(v[w])
        linear.bias.copy_(v[b])
    projector.act = torch.nn.GELU()
    tower = model.model.vision_tower
    rows = torch.cat([torch.zeros(1, v["X"].shape[1]), v["X"]])[None]

    def replace(module, args, output):
        output.hidden_states = (*output.hidden_states[:-2], rows, output.hidden_states[-1])
        return output

    hook = tower.register_forward_hook(replace)
    ids = [1, 5, *[tiny_models.IMAGE] * 64, 7, 8]
    chosen = tokenprune.method("zoo-prune", directions=v["U_raw"]) if method == "zoo-prune" else method
    try:
        with tokenprune.apply(model, method=chosen, keep=int(v["K"])) as handle:
            model(**tiny_models.batch([ids], torch.zeros(1, 3, 64, 64)))
            image = handle.last.images[0]
    finally:
        hook.remove()
    want = v["S_unit"] if method == "zoo-prune" else v["S_frobenius"]
    torch.testing.assert_close(image.scores, want, rtol=1e-3, atol=0)
    if method == "zoo-prune":
        assert image.selection.order.tolist() == v["order_hybrid"].int().tolist()
