# SPDX-License-Identifier: Apache-2.0
"""Gradient checkpointing: gradients as without it, or refused where a layer's hooks run a second time."""

import pytest
import tiny_families
import tiny_models
import torch
from family_cases import VERSION
from model_cases import Case
from packaging.version import Version

import tokenprune

RERUNS_HOOKS = Version("5.23") > VERSION  # when a layer is recomputed
PROJECTOR = ("zoo-exact", "visionzip")
DECODER = ("fastv", "pyramiddrop", "sparsevlm", "dart")
KINDS = [{"use_reentrant": False}, {"use_reentrant": True}]


def switch(model, kind):
    """Switch checkpointing on, `kind` says how, or off (None); transformers 5.24 renamed the methods."""
    what = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if kind is None:
        getattr(model, f"{what}_checkpointing_disable")()
    else:
        getattr(model, f"{what}_checkpointing_enable")(kind)


@pytest.fixture(autouse=True)
def _gradients():
    with torch.enable_grad():
        yield


def gradients(model, inputs, checkpointing=None):
    """Gradients of the loss by name, and the loss, of a model that trains."""
    if checkpointing:
        switch(model, checkpointing)
        model.enable_input_require_grads()
    try:
        model.train().zero_grad()
        loss = model(**inputs, labels=inputs["input_ids"], use_cache=False).loss
        loss.backward()
        return loss.detach(), {
            name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None
        }
    finally:
        if checkpointing:
            switch(model, None)
            model.disable_input_require_grads()
        model.eval()


def check(model, inputs, checkpointing=KINDS[0], keep=5, **options):
    with tokenprune.apply(model, keep=keep, **options) as handle:
        loss, want = gradients(model, inputs)
        kept = [image.kept.tolist() for image in handle.last.images]
        again, got = gradients(model, inputs, checkpointing)
        assert [image.kept.tolist() for image in handle.last.images] == kept
    torch.testing.assert_close(again, loss)
    assert got.keys() == want.keys() and len(got) > 20
    for name in want:
        torch.testing.assert_close(got[name], want[name], atol=1e-4, rtol=1e-3, msg=name)


@pytest.fixture
def model():
    return tiny_models.llava()


@pytest.fixture
def inputs():
    return tiny_models.llava_inputs((3, "I", 5), (2, "I", 6))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("method", PROJECTOR)
def test_cuts_before_the_language_model(model, inputs, method, kind):
    check(model, inputs, kind, method=method)


@pytest.mark.skipif(RERUNS_HOOKS, reason="refused, see below")
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("method", DECODER)
def test_cuts_inside_it(model, inputs, method, kind):
    check(model, inputs, kind, method=method)


@pytest.mark.parametrize("name", ["internvl", "mistral3"])
def test_other_families(name):
    check(tiny_families.build(name), tiny_families.inputs(name, (3, "I", 5)), method="zoo-exact", keep=3)


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
def test_qwen(method):
    if method == "fastv" and RERUNS_HOOKS:
        pytest.skip("refused, see below")
    case = Case("qwen")
    check(tiny_models.qwen(), case.inputs((3, ("I", 4, 6), 5))[0], method=method)


@pytest.mark.skipif(RERUNS_HOOKS, reason="refused, see below")
def test_two_cuts(model, inputs):
    check(model, inputs, method=["divprune", "fastv"], keep=[9, 4])


@pytest.mark.skipif(not RERUNS_HOOKS, reason="hooks run once from transformers 5.23 on")
@pytest.mark.parametrize("method", DECODER)
def test_cuts_inside_it_are_refused_where_hooks_run_again(model, inputs, method):
    towers = []
    model.model.vision_tower.register_forward_pre_hook(lambda *_: towers.append(1))
    with tokenprune.apply(model, method=method, keep=5):
        towers.clear()
        with pytest.raises(tokenprune.UnsupportedCallError, match="install transformers 5.23 or newer"):
            gradients(model, inputs, KINDS[0])
        assert not towers
        loss, _ = gradients(model, inputs)  # without it all is well
        assert loss.isfinite()


@pytest.mark.parametrize("method", [*PROJECTOR, *DECODER])
def test_no_layer_is_checkpointed_without_gradients_or_training(model, inputs, method):
    switch(model, KINDS[0])
    with tokenprune.apply(model, method=method, keep=5):
        want = model(**inputs, use_cache=False).logits
        with torch.no_grad():
            got = model.train()(**inputs, use_cache=False).logits
    torch.testing.assert_close(got, want.detach())


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
def test_packed_samples(model, method):
    """While it trains with checkpointing a model uses no cache, so that packed samples are told apart."""
    if method == "fastv" and RERUNS_HOOKS:
        pytest.skip("refused, see above")
    samples = [
        tiny_models.llava_inputs(parts, seed=seed) for seed, parts in enumerate(((3, "I", 5), (2, "I", 6)))
    ]
    places = [torch.arange(sample["input_ids"].shape[1])[None] for sample in samples]
    batch = {name: torch.cat([sample[name] for sample in samples], 1) for name in ("input_ids",)}
    batch |= {"position_ids": torch.cat(places, 1)}
    batch |= {"pixel_values": torch.cat([sample["pixel_values"] for sample in samples])}
    with tokenprune.apply(model, method=method, keep=5):
        want = torch.cat([model(**sample).logits for sample in samples], 1)
        switch(model, KINDS[0])
        got = model.train()(**batch).logits
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)
