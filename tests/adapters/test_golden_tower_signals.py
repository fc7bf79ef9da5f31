# SPDX-License-Identifier: Apache-2.0
"""The tower's signals against VisionZip's official attention, with stock transformers' module in between."""

from types import SimpleNamespace

import pytest
import torch
from reference import golden
from tokenprune_adapters.transformers import clip_signals
from tokenprune_adapters.transformers.tap import AttentionFunctionTap
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPAttention


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_golden_class_attention_and_keys(implementation):
    vectors = golden.load("visionzip_clip_attention_metric")
    heads, (n_images, length, width) = int(vectors["heads"]), vectors["x"].shape
    config = CLIPVisionConfig(hidden_size=width, num_attention_heads=heads)
    config._attn_implementation = implementation
    attention = CLIPAttention(config).eval()
    for letter, part in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("o", "out_proj")):
        projection = getattr(attention, part)
        projection.load_state_dict({"weight": vectors[f"{letter}_w"], "bias": vectors[f"{letter}_b"]})
    seen = []
    tap = AttentionFunctionTap(attention, lambda *what: seen.append(what))
    with torch.no_grad():
        output = attention(vectors["x"], attention_mask=None)[0]
    tap.remove()
    torch.testing.assert_close(output, vectors["attn_output"], rtol=0, atol=1e-5)
    encoded = SimpleNamespace(seen=SimpleNamespace(attention=seen))
    tiles = range(n_images)
    got = clip_signals.cls_attention(encoded, tiles)
    torch.testing.assert_close(got, vectors["cls_attention"][:, :, 1:], rtol=0, atol=1e-5)
    got = clip_signals.key_metric(encoded, tiles)
    torch.testing.assert_close(got, vectors["key_metric"][:, 1:], rtol=0, atol=1e-5)
    assert length == got.shape[1] + 1
