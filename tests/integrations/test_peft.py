# SPDX-License-Identifier: Apache-2.0
"""PEFT around a pruned model, and pruning inside a PEFT model: as the model with merged adapters.

What adapters do to scores, with dropout and while they train, is in tests/adapters/test_lora.py.
"""

import json

import pytest
import tiny_families
import tiny_models
import torch
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model

import tokenprune

METHODS = ["zoo-exact", "visionzip", "divprune", "fastv"]
INPUTS = tiny_models.llava_inputs((3, "I", 5), (2, "I", 4, "I", 3))
# peft uses names that transformers 5.24 has changed
pytestmark = [
    pytest.mark.usefixtures("no_gradients"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning"),
]


def lora(**options):
    options = {"target_modules": "all-linear", "init_lora_weights": False, **options}
    return LoraConfig(r=4, **options)


def wrapped(model, **options):
    torch.manual_seed(1)
    return get_peft_model(model, lora(**options)).eval()


def call(model, handle, inputs=INPUTS, **more):
    """Logits, and the slots kept in each image."""
    logits = model(**inputs, **more).logits
    return logits, [image.kept.tolist() for image in handle.last.images]


def pruned(model, method, inputs=INPUTS, keep=4):
    with tokenprune.apply(model, method=method, keep=keep) as handle:
        return call(model, handle, inputs)


def check(got, want):
    assert got[1] == want[1]
    torch.testing.assert_close(got[0], want[0], atol=1e-3, rtol=1e-3)


def hooks(model):
    return [
        (len(module._forward_hooks), len(module._forward_pre_hooks), "forward" in vars(module))
        for module in model.modules()
    ]


@pytest.mark.parametrize("method", METHODS)
def test_wrapping_a_pruned_model_and_merging_it_while_pruned(method):
    model = tiny_models.llava()
    model(**INPUTS)
    plain, before = model(**INPUTS).logits, hooks(model)
    want = pruned(wrapped(tiny_models.llava()).merge_and_unload(), method)
    without_adapter = pruned(tiny_models.llava(), method)
    assert not torch.allclose(without_adapter[0], want[0], atol=1e-2)

    handle = tokenprune.apply(model, method=method, keep=4)
    peft_model = wrapped(model)
    assert tokenprune.active_handle(peft_model) is handle
    check(call(peft_model, handle), want)
    with peft_model.disable_adapter():
        check(call(peft_model, handle), without_adapter)
    peft_model.merge_adapter()
    check(call(peft_model, handle), want)
    peft_model.unmerge_adapter()
    check(call(peft_model, handle), want)

    merged = peft_model.merge_and_unload()
    assert merged is model and handle.is_active
    check(call(model, handle), want)
    handle.remove()
    assert hooks(model) == before
    unpruned = wrapped(tiny_models.llava()).merge_and_unload()(**INPUTS).logits
    torch.testing.assert_close(model(**INPUTS).logits, unpruned, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(unpruned, plain, atol=1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_adapters_added_switched_and_deleted_while_pruned(method):
    peft_model = wrapped(tiny_models.llava())
    other = get_peft_model(tiny_models.llava(), lora())
    torch.manual_seed(2)
    with tokenprune.apply(peft_model.get_base_model(), method=method, keep=4) as handle:
        first = call(peft_model, handle)
        peft_model.add_adapter("second", lora())
        weights = {n: w for n, w in peft_model.state_dict().items() if "second" in n}
        other.load_state_dict({n.replace("second", "default"): w for n, w in weights.items()}, strict=False)
        check(call(peft_model, handle), first)  # the first is still the active one
        peft_model.set_adapter("second")
        second = call(peft_model, handle)
        peft_model.set_adapter("default")
        peft_model.delete_adapter("second")
        check(call(peft_model, handle), first)
        base = peft_model.unload()
        check(call(base, handle), pruned(tiny_models.llava(), method))
    check(second, pruned(other.merge_and_unload(), method))
    assert torch.equal(base(**INPUTS).logits, tiny_models.llava()(**INPUTS).logits)


def test_the_peft_model_itself_is_refused_with_the_model_to_pass():
    peft_model = wrapped(tiny_models.llava())
    with pytest.raises(tokenprune.UnsupportedModelError, match=r"apply to model\.get_base_model\(\)"):
        tokenprune.apply(peft_model, keep=4)
    with tokenprune.apply(peft_model.get_base_model(), keep=4):
        assert tokenprune.is_pruned(peft_model)
        with pytest.raises(tokenprune.AlreadyPrunedError, match="this PeftModel shares modules with a model"):
            tokenprune.apply(peft_model, keep=4)


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
def test_an_adapter_saved_while_pruned_is_loaded_into_an_unpruned_model(method, tmp_path):
    peft_model = wrapped(tiny_models.llava())
    unpruned = peft_model(**INPUTS).logits
    with tokenprune.apply(peft_model.get_base_model(), method=method, keep=4) as handle:
        want = call(peft_model, handle)
        peft_model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert "tokenprune" not in json.dumps(settings)
    loaded = PeftModel.from_pretrained(tiny_models.llava(), tmp_path).eval()
    assert not tokenprune.is_pruned(loaded)
    assert torch.equal(loaded(**INPUTS).logits, unpruned)
    check(pruned(loaded.get_base_model(), method), want)
    model = tiny_models.llava()
    with tokenprune.apply(model, method=method, keep=4) as handle:  # and into a pruned one
        check(call(PeftModel.from_pretrained(model, tmp_path).eval(), handle), want)


@pytest.mark.parametrize("name", ["internvl", "glm4v", "aya_vision", "smolvlm", "gemma3"])
@pytest.mark.parametrize("is_pruned_first", [True, False])
def test_projectors_of_other_kinds(name, is_pruned_first):
    """Two layers, gated ones, a single one, a matrix: scores are those of the merged weights."""
    inputs = tiny_families.inputs(name, (3, "I", 5))
    merged = wrapped(tiny_families.build(name)).merge_and_unload()
    with tokenprune.apply(merged, method="zoo-exact", keep=3) as handle:
        merged(**inputs)
        want = handle.last.images[0].scores
    model = tiny_families.build(name)
    if is_pruned_first:
        handle = tokenprune.apply(model, method="zoo-exact", keep=3)
    peft_model = wrapped(model)
    if not is_pruned_first:
        handle = tokenprune.apply(peft_model.get_base_model(), method="zoo-exact", keep=3)
    peft_model(**inputs)
    torch.testing.assert_close(handle.last.images[0].scores, want, atol=1e-5, rtol=1e-3)


TRAINED = {
    "llava": "multi_modal_projector",
    "internvl": "multi_modal_projector",
    "llava_onevision": "multi_modal_projector",
    "smolvlm": "connector",
}


@pytest.mark.parametrize("name", TRAINED)
def test_a_projector_that_is_trained_as_a_whole(name):
    """`modules_to_save`: scores are those of the active copy; a copy that is not hooked is refused."""
    is_llava = name == "llava"
    inputs = INPUTS if is_llava else tiny_families.inputs(name, (3, "I", 5))
    build = tiny_models.llava if is_llava else lambda: tiny_families.build(name)

    def trained():
        peft_model = wrapped(build(), target_modules=["q_proj"], modules_to_save=[TRAINED[name]])
        torch.manual_seed(3)
        for weight_name, weight in peft_model.named_parameters():
            if "modules_to_save" in weight_name:
                weight.copy_(torch.randn_like(weight) / 2)
        return peft_model

    peft_model = trained()
    want = pruned(trained().merge_and_unload(), "zoo-exact", inputs, 3)
    with tokenprune.apply(peft_model.get_base_model(), method="zoo-exact", keep=3) as handle:
        check(call(peft_model, handle, inputs), want)
        with peft_model.disable_adapter():
            if is_llava:  # whose hooks are on what chooses the copy
                check(call(peft_model, handle), pruned(build(), "zoo-exact", inputs, 3))
            else:
                with pytest.raises(tokenprune.UnsupportedCallError, match="PEFT's copy of it"):
                    peft_model(**inputs)
        check(call(peft_model, handle, inputs), want)


def test_a_pruned_projector_is_not_copied_by_peft():
    model = tiny_models.llava()
    with tokenprune.apply(model, method="zoo-exact", keep=4):
        with pytest.raises(tokenprune.UnsupportedCallError, match="a pruned model cannot be copied"):
            wrapped(model, target_modules=["q_proj"], modules_to_save=["multi_modal_projector"])


def most_attended(peft_model, inputs, keep, layer):
    """The slots to which the last token attends most in a layer of the unpruned model."""
    peft_model.get_base_model().set_attn_implementation("eager")
    attention = peft_model(**inputs, output_attentions=True).attentions[layer][0, :, -1].mean(0)
    return sorted(attention[-inputs["input_ids"].shape[1] :][4:20].topk(keep).indices.tolist())


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
@pytest.mark.parametrize("method", ["divprune", "fastv"])
def test_virtual_tokens_before_the_prompt(kind, method):
    """Dropped tokens are those that an attention mask hides in the unpruned PEFT model."""
    torch.manual_seed(1)
    sizes = {"num_virtual_tokens": 3, "token_dim": 64, "num_layers": 4, "num_attention_heads": 4}
    peft_model = get_peft_model(tiny_models.llava(), kind(task_type="CAUSAL_LM", **sizes)).eval()
    inputs = tiny_models.llava_inputs((3, "I", 5))
    base = peft_model.get_base_model()
    if method == "divprune":
        with tokenprune.apply(base, method=method, keep=4, positions="original") as handle:
            got, (kept,) = call(peft_model, handle, inputs)
        assert [kept] == pruned(base, method, inputs)[1]
        hidden = [slot for slot in range(16) if slot not in kept]
        mask = inputs["attention_mask"].clone()
        mask[0, [4 + slot for slot in hidden]] = 0
        want = peft_model(**{**inputs, "attention_mask": mask}).logits
        torch.testing.assert_close(got[:, -5:], want[:, -5:], atol=1e-3, rtol=1e-3)
    else:
        with tokenprune.apply(base, method=method, keep=4) as handle:
            got, (kept,) = call(peft_model, handle, inputs)
        assert len(kept) == 4 and got.shape == peft_model(**inputs).logits.shape
        (layer,) = handle.cuts[0].method.schedule.boundaries(4)
        assert kept == most_attended(peft_model, inputs, 4, layer - 1)


def test_ia3():
    config = IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "v_proj"], feedforward_modules=[])
    peft_model = get_peft_model(tiny_models.llava(), config).eval()
    for name, weight in peft_model.named_parameters():
        if "ia3" in name:
            weight.copy_(torch.linspace(0.5, 1.5, weight.numel()).view_as(weight))
    with tokenprune.apply(peft_model.get_base_model(), method="fastv", keep=4) as handle:
        got = call(peft_model, handle)
        merged = peft_model.merge_and_unload()
        check(call(merged, handle), got)
