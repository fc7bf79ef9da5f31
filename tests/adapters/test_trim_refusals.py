# SPDX-License-Identifier: Apache-2.0
"""What `trim_early_cache` cannot do is refused, with the reason, before anything is pruned."""

import pytest
import tiny_families
import tiny_models
import torch
from cache_names import CACHE
from tiny_models import llava_inputs
from tokenprune_vllm.settings import Settings
from transformers import Cache, DynamicCache, QuantizedCache, StaticCache, cache_utils

import tokenprune

TRIM = {"trim_early_cache": True}
INSIDE = tokenprune.Method(
    "inside", selector="diverse", stage="decoder", schedule=tokenprune.GeometricSchedule((2,)), **TRIM
)


def refused(model, match, error=tokenprune.IncompatibleError, **arguments):
    with pytest.raises(error, match=match):
        tokenprune.apply(model, **{"keep": 4, **TRIM, **arguments})
    assert not tokenprune.is_pruned(model)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"method": "divprune"}, r"'divprune' \(projector\), none of them in the decoder"),
        ({}, "nothing to trim"),
        ({"method": "tower-diverse"}, r"\(vision\), .*, none of them in the decoder"),
        (
            {"method": tokenprune.method("divprune", **TRIM)},
            "'divprune' cuts at the stage 'projector', before",
        ),
        ({"method": INSIDE, "stage": "projector", "trim_early_cache": None}, "cuts at the stage 'projector'"),
        ({"method": "sparsevlm"}, "'sparsevlm' makes new rows, and there are no keys and values of them"),
        ({"method": ["visionzip", "sparsevlm"], "keep": [8, 4]}, "'sparsevlm' makes new rows"),
    ],
)
def test_methods_that_have_nothing_to_trim_or_make_rows(arguments, match):
    refused(tiny_models.llava(), match, **arguments)


@pytest.mark.parametrize("value", [1, "yes"])
@pytest.mark.parametrize("method", ["fastv", "divprune"])
def test_another_value_than_true_or_false(value, method):
    model = tiny_models.llava()
    refused(model, "trim_early_cache", tokenprune.OptionError, method=method, trim_early_cache=value)
    with pytest.raises(tokenprune.OptionError, match="trim_early_cache"):
        tokenprune.method(method, trim_early_cache=value)


def test_false_overrides_the_methods_own_choice():
    model = tiny_models.llava()
    with tokenprune.apply(model, method=INSIDE, keep=4) as handle:
        assert handle.cuts[0].method.trim_early_cache
    for stage in ("decoder", "projector"):
        with tokenprune.apply(model, method=INSIDE, stage=stage, keep=4, trim_early_cache=False) as handle:
            assert handle.cuts[0].method.stage == stage and not handle.cuts[0].method.trim_early_cache
    with tokenprune.apply(model, method="divprune", keep=4, trim_early_cache=False):
        pass
    assert not tokenprune.method("fastv").trim_early_cache


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gemma3", "image tokens attend to each other"),
        ("mistral3_sliding", "sliding windows"),
        ("qwen3_5", "carry a state"),
    ],
)
def test_models_that_are_not_cut_in_the_decoder(name, reason):
    model = sliding() if name == "mistral3_sliding" else tiny_families.model(name)
    refused(model, reason, method="fastv")


def sliding():
    """A language model all of whose layers slide."""
    model = tiny_families.build("mistral3")
    config = model.model.language_model.config
    config.sliding_window = 8
    return model


def test_an_adapter_that_does_not_say_that_it_can(monkeypatch):
    model = tiny_models.llava()
    adapter = tokenprune.default_registry().adapter_for(model)
    monkeypatch.setattr(adapter, "can_trim", False)
    refused(model, "the adapter 'llava' cannot remove tokens from the caches", method="fastv")
    assert not tokenprune.ModelAdapter.can_trim


def test_a_selector_that_makes_rows_of_its_own(llava_sdpa):
    class Doubles(tokenprune.Selector):
        name = "doubles"

        def select(self, tokens, scores, keep):
            slots = torch.arange(keep)
            return tokenprune.Selection(slots, features=2 * tokens.features[slots])

    with tokenprune.apply(llava_sdpa, selector=Doubles(), layer=2, keep=4, **TRIM):
        with pytest.raises(tokenprune.UnsupportedCallError, match="made new rows"):
            llava_sdpa(**llava_inputs((3, "I", 5)))
    with tokenprune.apply(llava_sdpa, selector=Doubles(), layer=2, keep=4):
        llava_sdpa(**llava_inputs((3, "I", 5)))


# -- caches


class Counted(cache_utils.DynamicLayer):
    """A layer that may hold more than keys and values."""


class Lossless(cache_utils.QuantizedLayer):
    def _quantize(self, tensor, axis):
        return tensor.clone()

    def _dequantize(self, q_tensor):
        return q_tensor


CACHES = [
    (lambda config: Cache(layers=[Lossless() for _ in range(4)]), "a Lossless does not allow"),
    (lambda config: Cache(layers=[Counted() for _ in range(4)]), "a Counted does not allow"),
    (
        lambda config: Cache(layers=[cache_utils.DynamicSlidingWindowLayer(64) for _ in range(4)]),
        "a DynamicSlidingWindowLayer does not allow",
    ),
]
if hasattr(cache_utils, "Fp8QuantizedLayer"):
    CACHES.append((lambda config: QuantizedCache("fp8", config), "a Fp8QuantizedLayer does not allow"))


@pytest.mark.parametrize(("make", "match"), CACHES)
def test_caches_from_which_rows_cannot_be_removed(llava_sdpa, make, match):
    inputs, encoded = llava_inputs((3, "I", 5)), []
    tower = llava_sdpa.model.vision_tower
    with tokenprune.apply(llava_sdpa, method="fastv", keep=4, **TRIM):
        hook = tower.register_forward_hook(lambda *_: encoded.append(1))
        kv = make(llava_sdpa.config.get_text_config())
        with pytest.raises(tokenprune.UnsupportedCallError, match=match):
            llava_sdpa(**inputs, **{CACHE: kv}, use_cache=True)
        hook.remove()
        assert not encoded and not kv.get_seq_length()  # before the vision tower ran
        llava_sdpa(input_ids=inputs["input_ids"][:, :4], **{CACHE: kv}, use_cache=True)  # text is not pruned


def test_an_offloaded_cache(llava_sdpa):
    kv = DynamicCache(config=llava_sdpa.config.get_text_config())
    kv.offloading = True
    with tokenprune.apply(llava_sdpa, method="fastv", keep=4, **TRIM):
        with pytest.raises(tokenprune.UnsupportedCallError, match="a cache that is offloaded does not allow"):
            llava_sdpa(**llava_inputs((3, "I", 5)), **{CACHE: kv})


@pytest.mark.parametrize("make", [DynamicCache, StaticCache])
def test_a_cache_of_a_pruned_prompt_is_trimmed_again(llava_sdpa, make):
    options = {"config": llava_sdpa.config.get_text_config()}
    kv = make(**options, **({"max_cache_len": 60} if make is StaticCache else {}))
    with tokenprune.apply(llava_sdpa, method="fastv", keep=4, **TRIM):
        for seed in (1, 2):
            inputs = llava_inputs((3, "I", 5), seed=seed)
            del inputs["attention_mask"]
            llava_sdpa(**inputs, **{CACHE: kv})
        sizes = [layer.get_mask_sizes(1) for layer in kv.layers]
    assert sizes == [(60, 24) if make is StaticCache else (27, 24)] * 4


@pytest.mark.parametrize(("method", "match"), [("fastv", "stage 'decoder'"), ("divprune", "nothing to trim")])
def test_vllm_has_no_decoder_stage(method, match):
    with pytest.raises(tokenprune.IncompatibleError, match=match):
        Settings.parse({"method": method, "keep": 4, "options": TRIM})
