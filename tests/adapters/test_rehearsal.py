# SPDX-License-Identifier: Apache-2.0
"""A cut is tried on a few rows before a model is pruned; what is misunderstood is refused."""

import contextlib
import copy

import pytest
import tiny_families
import tiny_models
import torch
from model_cases import MODELS, Case
from tokenprune_adapters.transformers import calls, rehearsal, signature
from tokenprune_adapters.transformers import engine as engine_module
from tokenprune_adapters.transformers.pruned_layer import PrunedLayer

import tokenprune

METHODS = ("divprune", "fastv", "pyramiddrop", "sparsevlm")


def build(name, attention="sdpa"):
    if name in MODELS:
        return Case(name, attention).model
    return tiny_families.model(name)


def misread_cache(monkeypatch):
    """Let the cache that the language model is passed be read as no cache, as 0.1.0 did on 5.24."""
    original = signature.Signature.read

    def misread(self, view, args, kwargs):
        call = original(self, view, args, kwargs)
        if view is calls.LanguageCall and call.kv is not None:
            call.rest[self.names["kv"]] = call.kv
            call.kv = None
        return call

    def write(self, view):
        args, kwargs = original_write(self, view)
        return args, {**kwargs, **view.rest}

    original_write = signature.Signature.write
    monkeypatch.setattr(signature.Signature, "read", misread)
    monkeypatch.setattr(signature.Signature, "write", write)


@pytest.mark.parametrize("name", ["llava", "qwen", "internvl"])
@pytest.mark.parametrize("method", ["divprune", "fastv"])
def test_a_misread_cache_is_refused_by_apply_and_without_a_rehearsal_by_the_first_call(
    monkeypatch, name, method
):
    model = build(name)
    inputs = Case(name).single()[0] if name in MODELS else tiny_families.inputs(name, (3, "I", 5))
    before = model(**inputs).logits
    misread_cache(monkeypatch)
    with pytest.raises(tokenprune.UnsupportedModelError, match="rehearsal"):
        tokenprune.apply(model, method=method, keep=5)
    with tokenprune.apply(model, method=method, keep=5, verify=False) as handle:
        assert handle.rehearsal == "not rehearsed: verify=False"
        with pytest.raises(tokenprune.ReceiptError, match="cache"):
            model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert torch.equal(model(**inputs).logits, before)


def test_the_receipts_are_not_what_the_rehearsal_relies_on(monkeypatch):
    misread_cache(monkeypatch)
    for check in ("check_passed", "check_returned", "check_stored"):
        monkeypatch.setattr(engine_module.receipts, check, lambda *args: None)
    with pytest.raises(tokenprune.UnsupportedModelError, match="differ by .* allowed"):
        tokenprune.apply(tiny_models.llava(), method="divprune", keep=5)


def positions_one_too_far(self, original):
    return original() + self.dropped + 1


def never_shifted(call, layer):
    return None


BROKEN = {
    "counts": (PrunedLayer, "seen", positions_one_too_far),
    "positions": (engine_module.Call, "shift", never_shifted),
}


@pytest.mark.parametrize("what", BROKEN)
def test_wrong_counts_and_positions_are_seen(monkeypatch, what):
    monkeypatch.setattr(*BROKEN[what])
    with pytest.raises(tokenprune.UnsupportedModelError, match="rehearsal"):
        tokenprune.apply(tiny_models.llava(), method="divprune", keep=5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", [*MODELS, *tiny_families.CLASSES])
def test_no_family_dtype_or_attention_is_refused(name, dtype, attention):
    model = copy.deepcopy(build(name)).to(dtype)
    model.set_attn_implementation(attention)
    tried = 0
    for method in METHODS:
        try:
            handle = tokenprune.apply(
                model, method=method, schedule=schedule_of(name, method), **keep_of(name, method)
            )
        except tokenprune.IncompatibleError:
            continue  # not for this family, whatever the dtype
        with handle:
            assert handle.rehearsal.startswith("rehearsed: within ")
        tried += 1
    assert tried


def schedule_of(name, method):
    return {2: 9, 3: 5} if name == "qwen3_vl" and method == "pyramiddrop" else None


def keep_of(name, method):
    return {} if schedule_of(name, method) else {"keep": 5}


@pytest.mark.parametrize("positions", ["contiguous", "original"])
@pytest.mark.parametrize("method", ["divprune", "fastv", "sparsevlm"])
def test_both_position_rules_are_rehearsed(method, positions):
    with tokenprune.apply(tiny_models.llava(), method=method, keep=5, positions=positions) as handle:
        assert measured(handle) < 1e-5


def test_several_cuts_are_rehearsed_one_by_one():
    model = tiny_models.llava()
    with tokenprune.apply(model, method=["divprune", "fastv"], keep=[8, 4]) as handle:
        assert measured(handle) < 1e-5


def measured(handle):
    return float(handle.rehearsal.split()[2])


def test_the_model_and_random_state_are_as_before():
    model = tiny_models.llava(attention_dropout=0.5).train()
    model.model.vision_tower.eval()
    training = [module.training for module in model.modules()]
    keys = [set(vars(module)) for module in model.modules()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    tokenprune.apply(model, method="fastv", keep=5).remove()
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == training
    assert [set(vars(module)) for module in model.modules()] == keys
    assert all(parameter.grad is None for parameter in model.parameters())


def test_offloaded_weights_are_not_rehearsed_and_the_handle_says_so():
    accelerate = pytest.importorskip("accelerate")
    model = accelerate.cpu_offload(tiny_models.llava(), execution_device="cpu")
    with tokenprune.apply(model, method="divprune", keep=5) as handle:
        assert handle.rehearsal == "not rehearsed: weights of the language model are offloaded"


def test_a_language_model_whose_own_rows_are_not_finite_is_not_rehearsed():
    model = tiny_models.llava()
    with torch.no_grad():
        model.model.language_model.norm.weight.fill_(torch.nan)
    with tokenprune.apply(model, method="divprune", keep=5) as handle:
        assert handle.rehearsal.startswith("not rehearsed: the language model's own output is not finite")


def test_an_adapter_without_a_rehearsal_says_so():
    class Plain(tokenprune.ModelAdapter):
        name = "plain"
        provides = install = matches = None

    assert Plain(torch.nn.Identity()).rehearse([]) == "not rehearsed: the adapter 'plain' has no rehearsal"


def test_verify_is_a_truth_value():
    with pytest.raises(tokenprune.OptionError, match="verify must be True or False, got 1"):
        tokenprune.apply(tiny_models.llava(), method="divprune", keep=5, verify=1)


def test_the_floor_is_far_below_what_a_misread_cache_gives():
    assert max(rehearsal.FLOOR.values()) <= 5e-2


def test_the_models_own_difference_is_that_of_rounding(monkeypatch):
    seen = []
    original = rehearsal._difference
    monkeypatch.setattr(rehearsal, "FLOOR", dict.fromkeys(rehearsal.FLOOR, 0.0))
    monkeypatch.setattr(rehearsal, "_difference", lambda *rows: seen.append(original(*rows)) or seen[-1])
    model = tiny_models.llava()
    with contextlib.suppress(tokenprune.UnsupportedModelError):  # nothing but equal rows is allowed here
        tokenprune.apply(model, method="divprune", keep=5).remove()
    pruned, own = seen
    assert 0 < pruned < 1e-5 and own < 1e-5


def test_the_first_layers_are_rehearsed_and_all_are_there_again():
    model = tiny_models.llava(num_hidden_layers=12)
    language, seen = model.model.language_model, set()
    layers = language.layers
    hooks = [
        layer.register_forward_pre_hook(lambda module, args, i=i: seen.add(i))
        for i, layer in enumerate(layers)
    ]
    tokenprune.apply(model, method="divprune", keep=5).remove()
    assert seen == {0, 1, 2, 3} and language.layers is layers and len(layers) == 12
    tokenprune.apply(model, method="fastv", layer=7, keep=5).remove()
    assert seen == set(range(9)) and language.layers is layers
    for hook in hooks:
        hook.remove()
