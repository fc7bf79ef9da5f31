# SPDX-License-Identifier: Apache-2.0
"""What cannot work is refused when the engine starts, with one sentence."""

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
        ("llava", {"method": "visionzip", "options": {"dominant": 27}, "keep": 9}, "do not make up keep=9"),
        ("llava_siglip", {"method": "visionzip", "keep": 9}, "needs the signal cls_attention"),
        ("qwen", {"method": "visionzip", "keep": 9}, "cannot give at the stage 'projector' for this model"),
        ("qwen", {"method": "divprune", "keep": 9, "positions": "contiguous"}, "it allows: original"),
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


def test_a_tower_that_cannot_be_pruned(checkpoint):
    from tokenprune_vllm.llava import PrunedLlavaInfo
    from transformers import LlavaConfig, PixtralVisionConfig

    with pytest.raises(EngineRefusedError, match="a LLaVA with a 'pixtral' tower cannot be pruned"):
        PrunedLlavaInfo.signals(LlavaConfig(vision_config=PixtralVisionConfig()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mm_processor_kwargs": {"tokenprune": {"keep": 3}}}, 'give "tokenprune" to an engine in'),
        ({"mm_encoder_tp_mode": "data"}, "looks into the vision tower"),
        ({"video_pruning_rate": 0.5}, "leave one of the two out"),
        ({"compilation_config": {"compile_mm_encoder": True}}, "compile_mm_encoder is not supported"),
    ],
)
def test_engine_options_that_go_against_pruning(options, words, checkpoint):
    pruning = {"method": "zoo-exact", "keep": 9}
    with pytest.raises(EngineRefusedError, match=words), engine(checkpoint("qwen"), pruning, **options):
        pass
