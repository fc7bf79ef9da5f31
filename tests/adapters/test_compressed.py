# SPDX-License-Identifier: Apache-2.0
"""Checkpoints whose linear layers hold something else than weights until the model's first call.

So does the format `compressed-tensors`; the library itself is tested in `tests/vllm/test_quantised.py`, whose
environment has it.
"""

import copy

import pytest
import tiny_models
import torch
from torch import nn

import tokenprune
from tokenprune.at_hand import is_compressed
from tokenprune.projector import in_float32


def replace_weight(layer):
    """Integers in place of the weight."""
    scale = layer.weight.detach().abs().amax(1, keepdim=True) / 127
    layer.weight = nn.Parameter((layer.weight.detach() / scale).round().to(torch.int8), requires_grad=False)
    layer.register_buffer("scale", scale)


def remove_weight(layer):
    """Integers under another name, and no weight."""
    replace_weight(layer)
    layer.register_buffer("packed", layer.weight.detach())
    del layer._parameters["weight"]


def compressed(model, compress):
    """A copy of a model that decompresses its weights at its first call."""
    model = copy.deepcopy(model)
    parts = (model.model.multi_modal_projector, model.model.language_model)
    layers = [layer for part in parts for layer in part.modules() if type(layer) is nn.Linear]
    for layer in layers:
        compress(layer)

    def decompress(module, args):
        hook.remove()
        for layer in layers:
            values = getattr(layer, "packed", None)
            values = layer.weight if values is None else values
            layer.weight = nn.Parameter(values.float() * layer.scale)

    hook = model.register_forward_pre_hook(decompress)
    return model


@pytest.mark.parametrize("compress", [replace_weight, remove_weight])
@pytest.mark.parametrize("method", ["zoo-exact", "zoo-prune", "divprune", "visionzip", "fastv"])
def test_a_model_pruned_before_its_first_call_is_pruned_as_after_it(method, compress):
    inputs = tiny_models.llava_inputs((3, "I", 5))
    model, called = compressed(tiny_models.llava(), compress), compressed(tiny_models.llava(), compress)
    called(**inputs)
    with tokenprune.apply(called, method=method, keep=5) as handle:
        assert handle.rehearsal.startswith("rehearsed")
        expected, kept = called(**inputs).logits, handle.last.images[0].kept
    with tokenprune.apply(model, method=method, keep=5) as handle:
        assert handle.rehearsal == (
            "not rehearsed: weights of the language model are compressed until its first call"
        )
        assert torch.equal(model(**inputs).logits, expected)
        assert torch.equal(handle.last.images[0].kept, kept)
    assert torch.equal(model(**inputs).logits, called(**inputs).logits)


@pytest.mark.parametrize("compress", [replace_weight, remove_weight])
def test_compressed_layers_are_not_read(compress):
    layer = nn.Linear(16, 8)
    assert not is_compressed(layer)
    compress(layer)
    assert is_compressed(layer) and not is_compressed(nn.Identity())
    with pytest.raises(tokenprune.IncompatibleError, match="leave the projector out when quantising"):
        in_float32(nn.Sequential(layer))(torch.randn(2, 16))
