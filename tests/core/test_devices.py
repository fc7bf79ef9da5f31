# SPDX-License-Identifier: Apache-2.0
"""Strategies on bare tensors pick the same tokens on a GPU as on the CPU."""

import pytest
import torch

import tokenprune

METHODS = ["zoo-exact", "zoo-prune", "divprune", "visionzip", "vispruner", "random", "stride"]
METHODS += ["otprune", "scope"]


def tokens_on(device, n=96, width=32):
    """An image with the signals of a tower with a class token, float32."""
    draw = torch.Generator().manual_seed(0)
    torch_rows = {name: torch.randn(n, width, generator=draw).to(device) for name in ("features", "before")}
    layers = [torch.nn.Linear(width, width), torch.nn.GELU(), torch.nn.Linear(width, width)]
    for layer in (layers[0], layers[2]):
        layer.weight.data = torch.randn(width, width, generator=draw) / width**0.5
        layer.bias.data = torch.randn(width, generator=draw)
    attention = torch.rand(4, n, generator=draw).softmax(-1)
    return tokenprune.VisualTokens(
        torch_rows["features"],
        {
            "pre_features": torch_rows["before"],
            "projector": torch.nn.Sequential(*layers).to(device),
            "cls_attention": attention.to(device),
            "key_metric": torch.randn(n, 16, generator=draw).to(device),
            "cls_hidden": torch.randn(n, width, generator=draw).to(device),
        },
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_picks_what_the_cpu_picks(method):
    here, there = (tokenprune.method(method).select(tokens_on(d), keep=24) for d in ("cpu", "cuda"))
    assert there.indices.device.type == "cuda"
    assert here.indices.tolist() == there.indices.cpu().tolist()


@pytest.mark.parametrize("method", METHODS)
def test_the_inputs_of_the_comparison_are_ones_every_method_takes(method):
    chosen = tokenprune.method(method).select(tokens_on("cpu"), keep=24)
    assert len(chosen.indices) == 24
