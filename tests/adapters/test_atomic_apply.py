# SPDX-License-Identifier: Apache-2.0
"""Whatever fails in `apply`, the model, its hooks and transformers' tables are as they were before."""

import copy
import gc

import pytest
import tiny_models
import torch
import transformers
from tokenprune_adapters.llava import LlavaAdapter
from tokenprune_adapters.transformers import capture, decoder, engine, tap
from transformers import LlavaConfig, LlavaForConditionalGeneration
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import tokenprune
from tokenprune.registry import default_registry


@pytest.fixture(autouse=True)
def _collected():
    """Collect models of earlier tests, which take along what they registered, before a test and not in it."""
    gc.collect()


def trace(model):
    """All that an installation could leave behind."""
    modules = list(model.modules())
    return (
        [sorted(vars(module)) for module in modules],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules],
        [id(getattr(module, "config", None)) for module in modules],
        [type(module) for module in modules],
        sorted(ALL_ATTENTION_FUNCTIONS._global_mapping),
    )


def check_untouched(model, before, inputs, logits):
    assert trace(model) == before
    assert not tokenprune.is_pruned(model)
    assert torch.equal(model(**inputs).logits, logits)


def test_text_models_that_cannot_be_hooked_are_refused_by_name():
    base = tiny_models.llava().config.to_dict()
    sizes = {"vocab_size": base["text_config"]["vocab_size"], "hidden_size": 64, "intermediate_size": 96}
    sizes |= {"num_hidden_layers": 4, "num_attention_heads": 4}
    lfm2 = {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"] * 2}
    texts = {
        "gpt_neox": (
            {"model_type": "gpt_neox", **sizes},
            {"fastv": "no attention module was found at layer 0"},
        ),
        "lfm2": (
            {"model_type": "lfm2", "block_auto_adjust_ff_dim": False, **sizes, **lfm2},
            {"fastv": "carry a state"},
        ),
    }
    inputs = tiny_models.llava_inputs((3, "I", 5))
    for text, refusals in texts.values():
        model = LlavaForConditionalGeneration(LlavaConfig(**{**base, "text_config": text})).eval()
        logits = model(**inputs).logits  # transformers sets hooks of its own at the first call
        before = trace(model)
        for method, reason in refusals.items():
            with pytest.raises(
                (tokenprune.UnsupportedModelError, tokenprune.IncompatibleError), match=reason
            ):
                tokenprune.apply(model, method=method, keep=5)
            check_untouched(model, before, inputs, logits)


def test_a_text_model_without_the_usual_attention_still_takes_methods_that_do_not_look_at_it():
    base = tiny_models.llava().config.to_dict()
    text = {"model_type": "gpt_neox", "vocab_size": base["text_config"]["vocab_size"], "hidden_size": 64}
    text |= {"intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = LlavaForConditionalGeneration(LlavaConfig(**{**base, "text_config": text})).eval()
    inputs = tiny_models.llava_inputs((3, "I", 5))
    with torch.no_grad(), tokenprune.apply(model, method="divprune", keep=5) as handle:
        assert handle.rehearsal.startswith("rehearsed")
        assert model.generate(**inputs, max_new_tokens=3).shape[1] == inputs["input_ids"].shape[1] + 3
        assert handle.last.n_after == 5


STEPS = [
    (engine.FeatureCapture, "_install"),
    (capture.FeatureCapture, "_watch"),
    (engine, "refuse_chunked_prefill"),
    (engine, "guard_drafts"),
    (engine, "guard_batches"),
    (engine, "guard_managers"),
    (decoder.DecoderCuts, "__init__"),
    (tap.AttentionFunctionTap, "__init__"),
    (decoder, "AttentionFunctionTap"),
    (engine.MaskMakers, "resolve"),
    (engine.Engine, "_cut_layers"),
]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize(("owner", "name"), STEPS, ids=lambda part: getattr(part, "__name__", str(part)))
def test_an_installation_that_fails_half_way_leaves_nothing(monkeypatch, owner, name, error):
    model, inputs = tiny_models.llava(), tiny_models.llava_inputs((3, "I", 5))
    logits = model(**inputs).logits
    before = trace(model)

    def fail(*args, **kwargs):
        raise error("half way")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(error):
            tokenprune.apply(model, method=["visionzip", "fastv"], keep=[8, 4], verify=False)
    check_untouched(model, before, inputs, logits)
    with tokenprune.apply(model, method=["visionzip", "fastv"], keep=[8, 4]):
        pass
    check_untouched(model, before, inputs, logits)


class Foreign(LlavaAdapter):
    """A stranger's adapter that claims a model of another shape."""

    name = "foreign"

    @classmethod
    def matches(cls, model):
        return type(model).__name__ == "Florence2ForConditionalGeneration"


class Careless(tokenprune.ModelAdapter):
    """A stranger's adapter whose installation fails after it has changed the model."""

    name = "careless"
    provides = {"projector": frozenset()}

    @classmethod
    def matches(cls, model):
        return isinstance(model, torch.nn.Sequential)

    def install(self, cuts, record):
        self.model[0].register_forward_hook(lambda *args: None)
        self.model[0].forward = None
        self.model.left_behind = 1
        del self.model._modules["1"]
        raise RuntimeError("careless")


@pytest.fixture
def adapters(monkeypatch):
    """Put adapters of strangers in the registry."""
    registry = default_registry()
    entries = copy.copy(registry._entries["adapter"])
    monkeypatch.setitem(registry._entries, "adapter", entries)

    def add(adapter):
        entries[adapter.name] = [(adapter, next(p for p in registry.plugins if p.delivers))]

    return add


def test_a_foreign_adapter_on_another_architecture_leaves_the_model_alive(adapters):
    adapters(Foreign)
    vision = {"embed_dim": [16, 16], "depths": [1, 1], "num_heads": [2, 2], "num_groups": [2, 2]}
    vision |= {"patch_size": [3, 3], "patch_stride": [2, 2], "patch_padding": [1, 1]}
    vision |= {"patch_prenorm": [False, True]}
    vision |= {"window_size": 4, "projection_dim": 16}
    text = {"vocab_size": 99, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16}
    text |= {"decoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = transformers.Florence2Config(
        vision_config=vision, text_config={"model_type": "bart", **text}, image_token_id=90
    )
    model = transformers.Florence2ForConditionalGeneration(config).eval()
    before = trace(model)
    with pytest.raises(
        tokenprune.UnsupportedModelError, match="'foreign' does not fit Florence2.*own family"
    ):
        tokenprune.apply(model, method="divprune", keep=5)
    assert trace(model) == before and not tokenprune.is_pruned(model)


def test_what_a_careless_adapter_had_changed_is_taken_back(adapters):
    adapters(Careless)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    before, rows = trace(model), torch.ones(1, 2)
    wanted = model(rows)
    with pytest.raises(RuntimeError, match="careless"):
        tokenprune.apply(model, selector="topk", stage="projector", keep=5)
    assert trace(model) == before and torch.equal(model(rows), wanted)
