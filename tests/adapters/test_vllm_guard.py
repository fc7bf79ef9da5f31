# SPDX-License-Identifier: Apache-2.0
"""Models that cannot be pruned inside vLLM; a stand-in for vLLM, which is not needed for this."""

import sys
import types
from dataclasses import dataclass
from typing import Any

import pytest
from tokenprune_vllm import guard, stock
from tokenprune_vllm.errors import EngineRefusedError


@dataclass(frozen=True)
class Factories:
    info: Any
    processor: Any


class StockModel:
    _processor_factory = Factories(info=lambda context: "vLLM's own", processor="processor")


class Entry:
    def __init__(self, model=StockModel):
        self.model = model

    def load_model_cls(self):
        return self.model


class Registry:
    def __init__(self):
        self.models = {"OtherModel": Entry(), "LlavaForConditionalGeneration": Entry()}

    def register_model(self, name, where):
        self.models[name] = where


@pytest.fixture
def registered(monkeypatch):
    known = types.SimpleNamespace(**{name: {} for name in stock.LISTS})
    known._MULTIMODAL_MODELS = {"OtherModel": 0, "LlavaForConditionalGeneration": 0}
    for name in ("vllm", "vllm.model_executor"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    models = types.ModuleType("vllm.model_executor.models")
    models.registry = known
    monkeypatch.setitem(sys.modules, "vllm.model_executor.models", models)
    monkeypatch.setattr(guard, "_ORIGINALS", {})
    guard.__getattr__.cache_clear()

    def register(version, skip, **more):
        registry = Registry()
        registry.models |= more
        guard.register(registry, version, skip)
        return registry

    register.known = known
    return register


def context(**config):
    hf_config = types.SimpleNamespace(**config)
    return types.SimpleNamespace(model_config=types.SimpleNamespace(hf_config=hf_config))


def guarded(registry, name):
    module, _, attribute = registry.models[name].partition(":")
    return getattr(sys.modules[module], attribute)


def test_families_are_left_to_their_own_classes(registered):
    registry = registered("0.32.0", {"LlavaForConditionalGeneration"})
    assert isinstance(registry.models["LlavaForConditionalGeneration"], Entry)
    assert registry.models["OtherModel"] == "tokenprune_vllm.guard:OtherModel of vLLM 0.32.0"


def test_an_unconfigured_model_is_vllms_own_in_everything_but_one_attribute(registered):
    model = guarded(registered("0.32.0", set()), "OtherModel")
    assert issubclass(model, StockModel) and model.__name__ == "StockModel"
    own = set(vars(model)) - {"__module__", "__doc__", "__firstlineno__", "__static_attributes__"}
    assert own == {"_processor_factory"}
    assert model._processor_factory.processor == "processor"
    assert model._processor_factory.info(context()) == "vLLM's own"


def test_a_configured_model_that_cannot_be_pruned_is_refused(registered):
    model = guarded(registered("0.32.0", set()), "OtherModel")
    with pytest.raises(EngineRefusedError, match="OtherModel cannot be pruned inside vLLM; these can: Llava"):
        model._processor_factory.info(context(tokenprune={"keep": 1}))


def test_an_older_vllm_is_refused_whatever_the_model(registered):
    model = guarded(registered("0.31.0", set()), "LlavaForConditionalGeneration")
    with pytest.raises(
        EngineRefusedError, match=r"vLLM 0\.31\.0 is too old; .* tested with vLLM 0\.32 to 0\.33"
    ):
        model._processor_factory.info(context(tokenprune={"keep": 1}))
    assert model._processor_factory.info(context()) == "vLLM's own"


def test_a_model_that_no_list_names_is_left_alone(registered):
    assert isinstance(registered("0.32.0", set(), TextModel=Entry()).models["TextModel"], Entry)


def test_where_a_list_is_missing_every_model_is_guarded(registered):
    del registered.known._REWARD_MODELS
    model = guarded(registered("0.32.0", set(), RewardModel=Entry()), "RewardModel")
    with pytest.raises(EngineRefusedError, match="RewardModel cannot be pruned inside vLLM"):
        model._processor_factory.info(context(tokenprune={"keep": 1}))


class Unregistered:
    """A model with pictures, of a vLLM that keeps its processor elsewhere."""

    supports_multimodal = True

    def __init__(self, *, vllm_config, prefix=""):
        self.prefix = prefix


def test_a_model_whose_processor_is_elsewhere_is_refused_when_it_is_made(registered):
    model = guarded(registered("0.32.0", set(), OtherModel=Entry(Unregistered)), "OtherModel")
    assert model(vllm_config=context(), prefix="one").prefix == "one"
    with pytest.raises(EngineRefusedError, match="OtherModel cannot be pruned inside vLLM"):
        model(vllm_config=context(tokenprune={"keep": 1}))


def test_a_vllm_that_does_not_tell_its_models_is_named_in_the_log(registered, monkeypatch, caplog):
    monkeypatch.setattr(Registry, "__init__", lambda self: setattr(self, "models", {}))
    registered("0.32.9", set())
    assert 'vLLM 0.32.9 does not list its models; "tokenprune" is ignored' in caplog.text


def test_the_class_that_vllm_has_is_remembered_for_families_too(registered):
    registered("0.32.0", {"LlavaForConditionalGeneration"})
    assert guard.original("LlavaForConditionalGeneration") is StockModel
    assert guard.original("AnotherModel") is None
