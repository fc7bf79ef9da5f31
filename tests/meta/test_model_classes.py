# SPDX-License-Identifier: Apache-2.0
"""Every class for images and text is supported, or refused with a reason, as docs/models.md says."""

import re

import model_classes
import pytest
import transformers
from packaging.version import Version
from tokenprune_adapters.transformers import stock

import tokenprune

NEWEST = Version(transformers.__version__).release[:2] == stock.TESTED[1]
on_the_newest = pytest.mark.skipif(not NEWEST, reason="the page lists the newest tested transformers")
DECODER_READS = (
    "Florence2ForConditionalGeneration",
    "PPFormulaNetForConditionalGeneration",
    "Pix2StructForConditionalGeneration",
    "T5Gemma2ForConditionalGeneration",
    "UdopForConditionalGeneration",
    "VisionEncoderDecoderModel",
)
WITHOUT_ROTARY = (
    "Glm5NextForConditionalGeneration",
    "InklingForConditionalGeneration",
    "Kosmos2ForConditionalGeneration",
    "NemotronH_Omni_Reasoning_V3",
)
INDEXED = (
    "Dots3NoteForConditionalGeneration",
    "HYV4VLForConditionalGeneration",
    "MistralLarge4ForConditionalGeneration",
    "Qwen4ExpForConditionalGeneration",
)
REASONS = {
    **dict.fromkeys(DECODER_READS, "is an encoder-decoder, whose decoder reads images by cross-attention"),
    **dict.fromkeys(WITHOUT_ROTARY, "has no rotary_emb"),
    **dict.fromkeys(INDEXED, "layers of the kind indexed_attention"),
    "UnlimitedOcrForConditionalGeneration": "layers of the kind reference_sliding_attention",
    "DiffusionGemmaForBlockDiffusion": "not generate token by token .* such as block diffusion",
    "Granite4VisionForConditionalGeneration": "add features to visual tokens in a form that is not known",
    "EvollaForProteinText2Text": "takes no images",
    "Mistral4ForCausalLM": "takes no images",
    "MllamaForConditionalGeneration": "reads images by cross-attention",
    "HunYuanVLForConditionalGeneration": "has positions of 4 axes",
}


@pytest.mark.parametrize("name", model_classes.names())
def test_a_class_is_supported_or_refused_with_a_reason(name):
    outcome = model_classes.outcome(name)
    assert bool(outcome.adapter) != bool(outcome.reason)
    if outcome.adapter:
        assert outcome.adapter in tokenprune.default_registry().names("adapter")
    else:
        assert len(outcome.reason.split()) > 3
        assert "These failed" not in outcome.reason  # an adapter's `matches` raised an error


@pytest.mark.parametrize("name", model_classes.names())
def test_a_class_that_an_adapter_names_is_run(name):
    if model_classes.outcome(name).adapter not in ("", model_classes.BY_STRUCTURE):
        assert name in model_classes.run()


@on_the_newest
@pytest.mark.parametrize(("name", "reason"), REASONS.items())
def test_a_class_is_refused_for_what_it_is(name, reason):
    assert re.search(reason, model_classes.outcome(name).reason)


@on_the_newest
def test_the_page_lists_every_class():
    assert model_classes.written() == model_classes.PAGE.read_text(), "run `python tests/model_classes.py`"
