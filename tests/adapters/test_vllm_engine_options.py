# SPDX-License-Identifier: Apache-2.0
"""Engine options that would make pruned answers wrong; stand-ins for vLLM, which is not needed for this."""

import types

import pytest
from tokenprune_vllm.errors import EngineRefusedError
from tokenprune_vllm.model import PruningModel


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
