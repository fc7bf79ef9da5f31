# SPDX-License-Identifier: Apache-2.0
"""What cannot work is refused when the engine starts, with one sentence."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from engines import engine
from tokenprune_vllm.errors import EngineRefusedError


@pytest.mark.parametrize(
    ("name", "pruning", "words"),
    [
        ("llava", {"method": "zoo-exakt", "keep": 9}, "Did you mean 'zoo-exact'"),
        ("llava", {"method": "fastv", "keep": 9}, "only methods that cut before the language model"),
        ("llava", {"method": "cdpruner", "keep": 9}, "needs the signal clip_patch_embeds"),
        ("llava", {"scorer": "zoo", "selector": "colour", "keep": 9}, "unknown selector 'colour'"),
        (
            "llava",
            {"method": "divprune", "keep": 9, "max_keep": 8},
            "keep=9 is above this engine's max_keep=8",
        ),
        ("llava", {"method": "divprune", "keep": 9, "positions": "original"}, "it allows: contiguous"),
        ("llava", {"method": "visionzip", "options": {"dominant": 27}, "keep": 9}, "do not add up to keep=9"),
        ("llava_siglip", {"method": "visionzip", "keep": 9}, "needs the signal cls_attention"),
        ("qwen", {"method": "visionzip", "keep": 9}, "cannot give at the stage 'projector' for this model"),
        ("qwen", {"method": "divprune", "keep": 9, "positions": "contiguous"}, "it allows: original"),
        ("llava", {"method": "divprune", "stage": "vision", "keep": 9}, 'give "layer" (0 ... 1)'),
        ("llava", {"method": "divprune", "stage": "vision", "layer": 2, "keep": 9}, "within 0 ... 1"),
        ("llava", {"method": "vispruner", "stage": "vision", "layer": 1, "keep": 9}, "cls_attention"),
        ("qwen", {"selector": "duplicates", "stage": "vision", "layer": 0, "keep": 9}, "on the picture"),
        (
            "llava_next",
            {"method": "divprune", "stage": "vision", "layer": 1, "keep": 9},
            "cuts at: projector",
        ),
        ("qwen3_vl", {"method": "pool", "keep": 9}, "makes new rows, and this model adds rows of earlier"),
        ("gemma3", {"method": "vispruner-received", "keep": 9}, "needs the signal"),
    ],
)
def test_a_configuration_that_cannot_work(name, pruning, words, checkpoint):
    with pytest.raises(EngineRefusedError) as caught, engine(checkpoint(name), pruning):
        pass
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_that_cannot_be_pruned(checkpoint):
    overrides = {"architectures": ["Mistral3ForConditionalGeneration"], "tokenprune": {"keep": 9}}
    words = "Mistral3ForConditionalGeneration cannot be pruned inside vLLM; these can: LlavaFor"
    with pytest.raises(EngineRefusedError, match=words), engine(checkpoint("llava"), hf_overrides=overrides):
        pass


def test_a_model_run_by_transformers_cannot_be_pruned(checkpoint):
    words = "TransformersMultiModalForCausalLM cannot be pruned inside vLLM"
    with (
        pytest.raises(EngineRefusedError, match=words),
        engine(checkpoint("llava"), {"method": "stride", "keep": 9}, model_impl="transformers"),
    ):
        pass


def test_a_tower_that_cannot_be_pruned(checkpoint):
    from tokenprune_vllm.llava import LlavaInfo
    from transformers import LlavaConfig, PixtralVisionConfig

    with pytest.raises(EngineRefusedError, match="a LLaVA with a 'pixtral' tower cannot be pruned"):
        LlavaInfo.signals(LlavaConfig(vision_config=PixtralVisionConfig()))


def test_towers_whose_projected_rows_are_not_the_patches_are_not_cut_inside():
    from tokenprune_vllm.llava import LlavaInfo
    from tokenprune_vllm.llava_next import LlavaNextInfo
    from transformers import CLIPVisionConfig, LlavaConfig, SiglipVisionConfig

    clip, siglip = CLIPVisionConfig(num_hidden_layers=8), SiglipVisionConfig(num_hidden_layers=8)
    for tower, selected, layer, signals, n_blocks in (
        (clip, "default", -2, {"pre_features", "sizes", "cls_hidden"}, 7),
        (siglip, "full", 5, {"pre_features", "sizes"}, 5),
        (clip, "full", -2, set(), None),  # its class token is projected too
        (siglip, "default", -2, set(), None),  # its first patch is not
        (clip, "default", [-2, -5], set(), None),
    ):
        config = LlavaConfig(
            vision_config=tower, vision_feature_select_strategy=selected, vision_feature_layer=layer
        )
        assert LlavaInfo.tower_signals(config) == signals
        assert not signals or LlavaInfo.tower_blocks(config) == n_blocks
        assert LlavaNextInfo.tower_signals(config) == set()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mm_processor_kwargs": {"tokenprune": {"keep": 3}}}, 'pass "tokenprune" to the engine in'),
        ({"mm_encoder_tp_mode": "data"}, "uses signals of the vision tower"),
        ({"video_pruning_rate": 0.5}, "omit one of the two"),
        ({"compilation_config": {"compile_mm_encoder": True}}, "compile_mm_encoder is not supported"),
        ({"enable_prompt_embeds": True}, "--enable-prompt-embeds cannot be combined"),
    ],
)
def test_engine_options_that_go_against_pruning(options, words, checkpoint):
    pruning = {"method": "zoo-exact", "keep": 9}
    with pytest.raises(EngineRefusedError, match=words), engine(checkpoint("qwen"), pruning, **options):
        pass


def configuration(**changed):
    """What of an engine's configuration Qwen2.5-VL's check looks at."""
    from vllm.config import CUDAGraphMode

    plain = {"speculative_config": None, "lora_config": None, "cudagraph_mode": CUDAGraphMode.PIECEWISE}
    plain |= {"pipeline_parallel_size": 1, "use_ubatching": False, "video_pruning_rate": None}
    plain |= {"kv_transfer_config": None}
    given = SimpleNamespace(
        **{**plain, **changed, "enable_prompt_embeds": False, "compile_mm_encoder": False}
    )
    given.model_config, given.parallel_config, given.compilation_config = given, given, given
    given.multimodal_config = given
    return given


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"pipeline_parallel_size": 2}, "--pipeline-parallel-size above 1"),
        ({"speculative_config": object()}, "speculative decoding"),
        ({"use_ubatching": True}, "--enable-dbo or --ubatch-size"),
        ({"lora_config": SimpleNamespace(enable_tower_connector_lora=True)}, "--enable-tower-connector-lora"),
    ],
)
def test_what_would_go_past_the_mending_of_positions(changed, words):
    from tokenprune_vllm.qwen2_5_vl import PrunedQwen25VL

    with pytest.raises(EngineRefusedError, match=words):
        PrunedQwen25VL.check_engine(object.__new__(PrunedQwen25VL), configuration(**changed))


def test_graphs_that_would_go_past_the_mending_of_positions():
    from tokenprune_vllm.qwen2_5_vl import PrunedQwen25VL
    from vllm.config import CUDAGraphMode

    def checked(mode):
        given = configuration(cudagraph_mode=mode)
        PrunedQwen25VL.check_engine(object.__new__(PrunedQwen25VL), given)
        return given.cudagraph_mode

    assert (
        checked(CUDAGraphMode.FULL_AND_PIECEWISE)
        == checked(CUDAGraphMode.PIECEWISE)
        == CUDAGraphMode.PIECEWISE
    )
    assert checked(CUDAGraphMode.FULL_DECODE_ONLY) == CUDAGraphMode.NONE
    with pytest.raises(EngineRefusedError, match="cudagraph_mode FULL"):
        checked(CUDAGraphMode.FULL)


def test_breakable_graphs_would_go_past_the_mending_of_positions(monkeypatch):
    from tokenprune_vllm.llava import PrunedLlava
    from tokenprune_vllm.qwen2_5_vl import PrunedQwen25VL
    from vllm import envs
    from vllm.config import CUDAGraphMode

    def check(model, mode):
        given = configuration(cudagraph_mode=mode)
        model.check_engine(object.__new__(model), given)

    for variable, is_refused in (("1", True), ("0", False)):
        monkeypatch.setenv("VLLM_USE_BREAKABLE_CUDAGRAPH", variable)
        envs.disable_envs_cache()  # switched on by engines of other tests
        check(PrunedLlava, CUDAGraphMode.PIECEWISE)
        check(PrunedQwen25VL, CUDAGraphMode.NONE)
        words = "VLLM_USE_BREAKABLE_CUDAGRAPH"
        with pytest.raises(EngineRefusedError, match=words) if is_refused else nullcontext():
            check(PrunedQwen25VL, CUDAGraphMode.FULL_AND_PIECEWISE)


def test_connectors_that_may_confuse_images(checkpoint):
    from vllm.config import KVTransferConfig

    transfer = KVTransferConfig(kv_connector="LMCacheConnectorV1", kv_role="kv_both")
    pruning, words = {"method": "stride", "keep": 9}, "the KV connector LMCacheConnectorV1 is not supported"
    with (
        pytest.raises(EngineRefusedError, match=words),
        engine(checkpoint("llava"), pruning, kv_transfer_config=transfer),
    ):
        pass


def test_a_cut_inside_a_tower_that_ranks_divide_among_themselves(checkpoint):
    pruning = {"method": "divprune", "stage": "vision", "layer": 1, "keep": 9}
    with (
        pytest.raises(EngineRefusedError, match="needs all images of a batch, and --mm-encoder-tp-mode data"),
        engine(checkpoint("qwen"), pruning, mm_encoder_tp_mode="data"),
    ):
        pass
