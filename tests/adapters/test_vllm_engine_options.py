# SPDX-License-Identifier: Apache-2.0
"""Engine options that would make pruned answers wrong; stand-ins for vLLM, which is not needed for this."""

import enum
import sys
import types

import pytest
from tokenprune_vllm import stock
from tokenprune_vllm.errors import EngineRefusedError
from tokenprune_vllm.model import PruningModel


class CUDAGraphMode(enum.Enum):
    NONE = 0
    PIECEWISE = 1
    FULL_DECODE_ONLY = 2
    FULL_AND_PIECEWISE = 3

    def mixed_mode(self):
        """The mode of steps with prompts."""
        return CUDAGraphMode.NONE if self.name == "FULL_DECODE_ONLY" else CUDAGraphMode(self.value % 2)


@pytest.fixture
def graphs(monkeypatch):
    """Return whether an engine is found to use breakable graphs, given its mode and the variable's value."""
    config, breakable = types.ModuleType("vllm.config"), types.ModuleType("breakable_cudagraph")
    config.CUDAGraphMode = CUDAGraphMode
    modules = {"vllm.config": config, "vllm.compilation.breakable_cudagraph": breakable}
    for name, module in {"vllm": None, "vllm.compilation": None, **modules}.items():
        monkeypatch.setitem(sys.modules, name, module or types.ModuleType(name))

    def found(mode, is_on):
        breakable.is_breakable_cudagraph_enabled = lambda: is_on
        compilation = types.SimpleNamespace(cudagraph_mode=mode)
        return stock.uses_breakable_graphs(types.SimpleNamespace(compilation_config=compilation))

    return found


@pytest.mark.parametrize("mode", [CUDAGraphMode.PIECEWISE, CUDAGraphMode.FULL_AND_PIECEWISE])
def test_breakable_graphs_are_found_where_they_are_switched_on(mode, graphs):
    assert graphs(mode, True) and not graphs(mode, False)


@pytest.mark.parametrize("mode", [None, CUDAGraphMode.NONE, CUDAGraphMode.FULL_DECODE_ONLY])
def test_engines_that_capture_no_prompts_are_left_alone(mode, graphs):
    assert not graphs(mode, True)


def engine(name, module=None, **options):
    """An engine's configuration, as far as `PruningModel.check_engine` reads it."""
    transfer = None
    if name is not None:
        transfer = types.SimpleNamespace(
            kv_connector=name, kv_connector_module_path=module, kv_connector_extra_config=options
        )
    given = types.SimpleNamespace(kv_transfer_config=transfer, lora_config=None)
    given.multimodal_config = types.SimpleNamespace(video_pruning_rate=None)
    given.model_config = given
    given.compilation_config = types.SimpleNamespace(compile_mm_encoder=False)
    return given


SUPPORTED = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}


@pytest.mark.parametrize(
    "given",
    [engine(None), engine("ExampleConnector"), engine("MultiConnector", connectors=[SUPPORTED, SUPPORTED])],
)
def test_connectors_that_tell_images_apart_are_accepted(given):
    PruningModel.check_engine(object.__new__(PruningModel), given)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (engine("LMCacheConnectorV1"), "LMCacheConnectorV1"),
        (engine("HF3FSKVConnector"), "HF3FSKVConnector"),
        (engine("ExampleConnector", module="ours"), "ExampleConnector"),
        (
            engine("MultiConnector", connectors=[SUPPORTED, {"kv_connector": "FlexKVConnectorV1"}]),
            "FlexKVConnectorV1",
        ),
        (
            engine("MultiConnector", connectors=[{**SUPPORTED, "kv_connector_module_path": "ours"}]),
            "NixlConnector",
        ),
    ],
)
def test_other_connectors_are_refused(given, named):
    with pytest.raises(EngineRefusedError) as caught:
        PruningModel.check_engine(object.__new__(PruningModel), given)
    assert f"the KV connector {named} is not supported" in str(caught.value) and "\n" not in str(caught.value)
