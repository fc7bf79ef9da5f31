# SPDX-License-Identifier: Apache-2.0
"""What the families beyond the main three give strategies to see, and what they refuse."""

import pytest
import tiny_families as families
import torch
from family_cases import KEEP, TOLERANCE
from tiny_families import BOS, VIDEO, batch

import tokenprune


class Look(tokenprune.Scorer):
    """Keeps what it was shown."""

    name = "look"

    def __init__(self, *needs):
        self.asked, self.seen = frozenset(needs), []

    @property
    def needs(self):
        return self.asked

    def score(self, tokens):
        self.seen.append((tokens, {name: tokens.signal(name) for name in self.asked}))
        return torch.zeros(len(tokens))


ALIGNED = (
    "qwen2_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen2_5_omni",
    "qwen3_omni",
    "internvl",
    "gemma3",
    "gemma4_e",
    "gemma4",
    "smolvlm",
    "idefics3",
    "mistral3",
    "paligemma",
    "llava_onevision",
    "kimi_k25",
    "lfm2_vl",
    "paddleocr_vl",
    "deepseek_vl",
    "video_llama_3",
    "vipllava",
    "lighton_ocr",
    "minicpmv4_6",
    "minicpm_ocr",
    "minicpmv4_7",
    "cosmos3_edge",
    "cosmos3_omni",
    "fast_vlm",
    "hyperclovax_vision_v2",
    "lfm3_vl",
    "qianfan_ocr",
    "video_llava",
    "got_ocr2",
    "minimax_m3_full",
    "cohere_compass",
)


@pytest.mark.parametrize(
    "name", [name for name in ALIGNED if name in (*families.CLASSES, *families.STRUCTURAL)]
)
def test_projector_rows_are_those_of_the_tokens_and_the_closed_form_is_the_projector(name):
    model, inputs, look = families.model(name), families.inputs(name), Look("pre_features", "projector")
    with tokenprune.apply(model, scorer=look, keep=KEEP):
        model(**inputs)
    assert len(look.seen) == 3
    for tokens, signals in look.seen:
        rows, projector = signals["pre_features"], signals["projector"]
        torch.testing.assert_close(projector(rows), tokens.features, **TOLERANCE)
        form = projector.linear_form()
        torch.testing.assert_close(form(rows.float()), tokens.features, **TOLERANCE)
        score = tokenprune.scorer("zoo-exact").score(tokens)
        for i in (0, len(tokens) - 1):
            jacobian = torch.autograd.functional.jacobian(projector, rows[i : i + 1].float())
            want = jacobian.norm() / rows[i].numel() ** 0.5
            torch.testing.assert_close(score[i], want, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["glm4v", "glm4v_moe", "glm46v", "aya_vision"])
def test_a_gated_projector_has_rows_and_no_closed_form(name):
    model, look = families.model(name), Look("pre_features", "projector")
    with tokenprune.apply(model, scorer=look, keep=KEEP):
        model(**families.inputs(name))
    assert len(look.seen) == 3
    for tokens, signals in look.seen:
        rows, projector = signals["pre_features"], signals["projector"]
        torch.testing.assert_close(projector(rows), tokens.features, **TOLERANCE)
        assert projector.linear_form() is None
        score = tokenprune.scorer("zoo-exact").score(tokens)
        for i in (0, len(tokens) - 1):
            jacobian = torch.autograd.functional.jacobian(projector, rows[i : i + 1].float())
            want = jacobian.norm() / rows[i].numel() ** 0.5
            torch.testing.assert_close(score[i], want, rtol=2e-3, atol=1e-4)


def test_rows_of_a_video_of_llava_onevision_are_pooled_like_its_features():
    model, look = families.model("llava_onevision"), Look("pre_features")
    inputs = batch([[BOS, *[VIDEO] * 13, 7]])
    inputs["pixel_values_videos"] = torch.randn(1, 3, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    seen = []
    hook = model.model.multi_modal_projector.register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    with tokenprune.apply(model, scorer=look, keep=KEEP):
        model(**inputs)
    hook.remove()
    patches = seen[0].view(3, 2, 2, 2, 2, 32)  # frames of 4 x 4 patches in blocks of two by two
    ((_, signals),) = look.seen
    torch.testing.assert_close(signals["pre_features"], patches.mean((2, 4)).flatten(0, 2))


def test_layouts():
    def layout(name):
        model = families.model(name)
        with tokenprune.apply(model, method="stride", keep=KEEP) as handle:
            model(**families.inputs(name, (3, "I", 5)))
            return handle.last.images[0].layout

    assert layout("internvl").grid == (1, 4, 4)
    assert layout("idefics3").grid == (1, 2, 2)
    assert layout("qwen3_vl").grid == (1, 4, 6)
    newlines = layout("llava_onevision").newlines.nonzero().squeeze(1).tolist()
    assert newlines == [24, 33, 42, 51]  # 16 tokens of the base view, then rows of 8 and a newline


def test_what_a_family_cannot_do_is_refused_with_the_reason():
    refused = [
        ("gemma3", {"method": "fastv"}, "attend to each other"),
        ("paligemma", {"method": "sparsevlm"}, "attend to each other"),
        ("gemma3", {"method": "stride", "positions": "original"}, "it allows: contiguous"),
        ("qwen3_vl", {"method": "stride", "positions": "contiguous"}, "it allows: original"),
        ("qwen3_vl", {"method": "fastv"}, "from 2 on"),
        ("qwen3_vl", {"method": "pool"}, "a new row has none"),
        ("internvl", {"method": "vispruner-received"}, "needs the signal received_attention"),
        ("internvl", {"method": "visionzip"}, "cls_attention"),
    ]
    for name, call, words in refused:
        with pytest.raises(tokenprune.IncompatibleError, match=words):
            tokenprune.apply(families.model(name), keep=KEEP, **call)
        assert not tokenprune.is_pruned(families.model(name))
