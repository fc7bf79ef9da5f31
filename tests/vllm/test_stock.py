# SPDX-License-Identifier: Apache-2.0
"""A vLLM that lacks a name the plugin needs: refused where pruning is configured, left alone elsewhere."""

import importlib
import inspect
import sys
import types

import pytest
from checkpoints import picture
from engines import ask, engine, prompt
from tokenprune_vllm import guard, stock
from tokenprune_vllm.errors import EngineRefusedError
from tokenprune_vllm.lookup import parts_of

PRUNING = {"method": "zoo-exact", "keep": 9}
CHECKPOINT = {"llava": "llava", "llava-next": "llava_next", "qwen2.5-vl": "qwen"}
CHECKPOINT |= {"qwen3-vl": "qwen3_vl", "gemma-3": "gemma3", "internvl": "internvl"}
FIRST = ("llava", "llava-next", "qwen2.5-vl")


def pruned_model(family):
    """Return our class that replaces vLLM's, and the classes it is derived from."""
    from tokenprune_vllm import gemma3, internvl, llava, llava_next, qwen2_5_vl, qwen3_vl

    return {
        "llava": (llava.PrunedLlava, llava.LlavaModel, llava.LlavaInfo),
        "llava-next": (llava_next.PrunedLlavaNext, llava_next.LlavaNextModel, llava_next.LlavaNextInfo),
        "qwen2.5-vl": (qwen2_5_vl.PrunedQwen25VL, qwen2_5_vl.Qwen25VLModel, qwen2_5_vl.Qwen25VLInfo),
        "qwen3-vl": (qwen3_vl.PrunedQwen3VL, qwen3_vl.Qwen3VLModel, qwen3_vl.Qwen3VLInfo),
        "qwen3-vl-moe": (qwen3_vl.PrunedQwen3VLMoe, qwen3_vl.Qwen3VLMoeModel, qwen3_vl.Qwen3VLMoeInfo),
        "qwen3.5": (qwen3_vl.PrunedQwen35, qwen3_vl.Qwen35Model, qwen3_vl.Qwen35Info),
        "qwen3.5-moe": (qwen3_vl.PrunedQwen35Moe, qwen3_vl.Qwen35MoeModel, qwen3_vl.Qwen35MoeInfo),
        "gemma-3": (gemma3.PrunedGemma3, gemma3.Gemma3Model, gemma3.Gemma3Info),
        "internvl": (internvl.PrunedInternVL, internvl.InternVLModel, internvl.InternVLInfo),
    }[family]


def pieces():
    """Each listed name once, with a family that needs it: modules, what is in them, parameters."""
    found = {}
    for family in stock.FAMILIES:
        for _, name in stock.names(family):
            module, attributes, parameters = parts_of(name)
            if module != "vllm":
                found.setdefault((module, (), None), family)
            for n in range(len(attributes)):
                found.setdefault((module, tuple(attributes[: n + 1]), None), family)
            for parameter in parameters:
                found.setdefault((module, tuple(attributes), parameter), family)
    return [(family, *piece) for piece, family in found.items()]


def hide(patch, owner, name):
    """Take an attribute away from an object, its class, or all classes it comes from."""
    if isinstance(owner, types.ModuleType) and name not in vars(owner):
        patch.setattr(owner, "__getattr__", _nothing)  # modules of vLLM that load theirs when asked
        return
    if name in getattr(owner, "__dict__", {}) and not isinstance(owner, type):
        patch.delattr(owner, name)
        return
    for kind in ("_modules", "_parameters", "_buffers"):  # of torch
        if name in (getattr(owner, kind, None) or {}):
            patch.delitem(getattr(owner, kind), name)
            return
    for base in (owner if isinstance(owner, type) else type(owner)).__mro__:
        if name in vars(base):
            patch.delattr(base, name)
        if name in inspect.get_annotations(base):
            patch.delitem(base.__annotations__, name)


def _nothing(name):
    raise AttributeError(name)


def rename_parameter(patch, function, name):
    """Let a function or class say that a parameter has another name."""
    signature = inspect.signature(function)
    renamed = [
        one.replace(name=f"{name}_2") if one.name == name else one for one in signature.parameters.values()
    ]
    function = getattr(function, "__func__", function)
    if not isinstance(function, type):
        renamed = _with_self(function, renamed)
    patch.setattr(function, "__signature__", signature.replace(parameters=renamed), raising=False)


def _with_self(function, renamed):
    """Parameters of a function, where they were read from a method of an object."""
    own = list(inspect.signature(function).parameters.values())
    return own[: len(own) - len(renamed)] + renamed


def take_away(patch, module, attributes, parameter):
    """Make vLLM lack one piece; what an error must call it."""
    if not attributes:
        patch.setitem(sys.modules, module, None)
        return module
    owner = importlib.import_module(module)
    for attribute in attributes[:-1]:
        owner = getattr(owner, attribute)
    name = attributes[-1]
    if parameter is not None:
        rename_parameter(patch, getattr(owner, name), parameter)
        return f"parameter {parameter} of {module}:{'.'.join(attributes)}"
    if attributes[0] == "CUDAGraphMode" and len(attributes) == 2:  # Python guards members of an Enum
        kept = {one: getattr(owner, one) for one in ("FULL", "mixed_mode", "separate_routine") if one != name}
        patch.setattr(importlib.import_module(module), "CUDAGraphMode", type("CUDAGraphMode", (), kept))
    else:
        hide(patch, owner, name)
    return f"{module}:{'.'.join(attributes)}"


def spelled(piece):
    return ".".join([piece[1].removeprefix("vllm."), *piece[2], *([f"({piece[3]})"] if piece[3] else [])])


@pytest.mark.parametrize("piece", pieces(), ids=spelled)
def test_a_missing_name_is_refused_once_pruning_is_configured(piece, monkeypatch):
    """By the check every start runs first; an engine not asked to prune gets its model all the same."""
    from tokenprune_vllm.processing import prunable

    family, module, attributes, parameter = piece
    _, ours, info = pruned_model(family)
    stock.check(family)
    with monkeypatch.context() as patch:
        missing = take_away(patch, module, attributes, parameter)
        with pytest.raises(EngineRefusedError) as caught:
            stock.check(family)
        of = stock.FAMILIES[family]
        if (module, attributes) not in ((of.module, ()), (of.module, (of.model,))):  # the model itself
            assert issubclass(prunable("Again", ours, info), ours)
    said = str(caught.value)
    assert f" has no {missing}, which is needed for: " in said and "tested with vLLM 0.32 to 0.33;" in said
    stock.check(family)


def configuration_without(name):
    """An engine's configuration that has all options that are looked at, but one."""
    root = types.SimpleNamespace()
    for own, path in stock.OPTIONS.items():
        owner, *steps = root, *path.replace("?", "").split(".")
        for step in steps[:-1]:
            if not hasattr(owner, step):
                setattr(owner, step, types.SimpleNamespace())
            owner = getattr(owner, step)
        if own != name:
            setattr(owner, steps[-1], 1)
    root.model_config.hf_config = types.SimpleNamespace(tokenprune=PRUNING)
    if name == "configuration":
        del root.model_config.hf_config
    return root


@pytest.mark.parametrize("name", stock.OPTIONS)
def test_a_missing_option_is_refused(name):
    made, missing = configuration_without(name), stock.OPTIONS[name].split(".")[-1]
    model, _, _ = pruned_model("llava")
    with pytest.raises(EngineRefusedError, match=rf"has no [\w.]*{missing} in an? \w+'s configuration"):
        model(vllm_config=made)
    if stock.OPTIONS[name].startswith("model_config."):
        with pytest.raises(EngineRefusedError, match=rf"{missing} in a model's configuration"):
            model._processor_factory.info(made)


@pytest.mark.parametrize(
    "family", [f if f in FIRST else pytest.param(f, marks=pytest.mark.nightly) for f in CHECKPOINT]
)
def test_a_missing_part_of_a_model_is_refused(family, checkpoint, monkeypatch):
    """Every step of every path, taken away from a running engine's model, which is then watched anew."""
    parts = stock.FAMILIES[family].parts
    with engine(checkpoint(CHECKPOINT[family]), PRUNING) as llm:
        model = llm.llm_engine.model_executor.driver_worker.worker.get_model()
        needs = pruned_model(family)[2].signals(model.config)
        model.watch(needs)
        taken = set()
        for path, read in parts.values():
            where = [max(model.visual.fullatt_block_indexes)] if "{}" in path else []
            for whole in (path, *(f"{path}.{attribute}" for attribute in read.values())):
                steps = whole.format(*where).split(".")
                for n, step in enumerate(steps):
                    if step.lstrip("-").isdigit() or tuple(steps[: n + 1]) in taken:
                        continue
                    taken.add(tuple(steps[: n + 1]))
                    owner = model
                    for before in steps[:n]:
                        owner = stock.View(owner, {"it": before}, "").it
                    with monkeypatch.context() as patch:
                        hide(patch, owner, step)
                        with pytest.raises(EngineRefusedError, match=rf"{step} in .*, which is needed for"):
                            model.watch(needs)
        assert len(taken) > len(parts)
        model.watch(needs)


def test_an_engine_with_a_renamed_method_starts_only_without_pruning(checkpoint, monkeypatch):
    """A method that vLLM would no longer call: ours would never run."""
    from vllm.model_executor.models.llava import BaseLlavaProcessingInfo

    monkeypatch.setattr(
        BaseLlavaProcessingInfo,
        "get_most_tokens",
        BaseLlavaProcessingInfo.get_max_image_tokens,
        raising=False,
    )
    monkeypatch.delattr(BaseLlavaProcessingInfo, "get_max_image_tokens")
    asked = [prompt("llava", "w5 IMAGE w3", picture(1))]
    with engine(checkpoint("llava")) as llm:
        assert ask(llm, asked)[0].n_prompt == 3 + 144
    words = r"has no vllm\.model_executor\.models\.llava:LlavaProcessingInfo\.get_max_image_tokens"
    with pytest.raises(EngineRefusedError, match=words), engine(checkpoint("llava"), PRUNING):
        pass


def test_a_newer_vllm_that_has_every_name_prunes_with_one_warning(checkpoint, monkeypatch):
    from tokenprune_vllm import versions

    said = []
    monkeypatch.setattr("vllm.__version__", "0.99.0")
    monkeypatch.setattr(versions.logger, "warning", lambda text, *values: said.append(text % values))
    with engine(checkpoint("llava"), PRUNING) as llm:
        assert ask(llm, [prompt("llava", "w5 IMAGE w3", picture(1))])[0].n_prompt == 3 + 9
    (warning,) = said
    assert warning.startswith("tokenprune was tested with vLLM 0.32 to 0.33, and 0.99.0 is installed. ")


def test_an_engine_with_a_renamed_layer_does_not_start(checkpoint, monkeypatch):
    from vllm.model_executor.models.llava import LlavaMultiModalProjector

    made = LlavaMultiModalProjector.__init__

    def make(self, *args, **kwargs):
        made(self, *args, **kwargs)
        self.layer_1 = self.linear_1
        del self.linear_1

    monkeypatch.setattr(LlavaMultiModalProjector, "__init__", make)
    words = r"has no multi_modal_projector\.linear_1 in PrunedLlava"
    with pytest.raises(EngineRefusedError, match=words), engine(checkpoint("llava"), PRUNING):
        pass


def test_a_model_that_vllm_moved_is_found_where_it_is(monkeypatch):
    from tokenprune_vllm.processing import prunable
    from vllm.model_executor.models import llava

    _, ours, info = pruned_model("llava")
    stock_model = llava.LlavaForConditionalGeneration
    moved = {"LlavaForConditionalGeneration of vLLM 0.32.9": lambda: stock_model}
    monkeypatch.setattr(guard, "_ORIGINALS", moved)
    monkeypatch.delattr(llava, "LlavaForConditionalGeneration")
    assert issubclass(prunable("Again", ours, info), stock_model)


def test_every_method_of_ours_runs_in_place_of_one_of_vllms():
    """No name of the tables is misspelt: each has a method, and vLLM's class has the other."""
    from tokenprune_vllm.processing import PruningProcessor

    for family, of in stock.FAMILIES.items():
        model, ours, info = pruned_model(family)
        for kind, methods in ((ours, of.overrides), (info, stock.INFO), (PruningProcessor, stock.PROCESSOR)):
            assert all(callable(getattr(kind, own)) for own in methods)
        overridden = {parts_of(theirs)[1][0] for theirs in of.overrides.values()}
        assert overridden <= set(vars(model))
