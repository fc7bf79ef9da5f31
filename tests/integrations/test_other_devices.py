# SPDX-License-Identifier: Apache-2.0
"""Apple's and Intel's GPUs: a model on a simulated device without float64, and no code for NVIDIA's alone."""

import ast
from pathlib import Path

import pytest
import tiny_models
import torch
from cache_names import CACHE, cache_of
from narrow_device import DEVICE, NarrowDevice

import tokenprune

ROOT = Path(__file__).parents[2]
LIBRARY = [*(ROOT / "tokenprune").rglob("*.py"), *(ROOT / "plugins/tokenprune_plugins").rglob("*.py")]
LIBRARY += (ROOT / "adapters/tokenprune_adapters").rglob("*.py")
# each compares the device's type, and does the same for all others in another way
KNOWS_CUDA = {
    "tokenprune/max_min.py",  # a Triton kernel
    "plugins/tokenprune_plugins/zoo_exact.py",  # the dtype of intermediate products
    "adapters/tokenprune_adapters/loading.py",  # --device of the command line
}
KNOWS_FLOAT64 = {"tokenprune/precision.py": {"mps", "xpu"}}


def put_on_device(model):
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = torch.nn.Parameter(weight.detach().to(DEVICE), requires_grad=False)
        for name, buffer in module._buffers.items():
            module._buffers[name] = buffer if buffer is None else buffer.to(DEVICE)
    return model


def answers(model, inputs, method):
    """Logits of the prompt and of one more token after it, and the slots kept in each image."""
    with tokenprune.apply(model, method=method, keep=5) as handle:
        prompt = model(**inputs, use_cache=True)
        mask = torch.cat([inputs["attention_mask"], inputs["attention_mask"][:, -1:]], 1)
        ids = inputs["input_ids"][:, -1:]
        step = model(input_ids=ids, attention_mask=mask, **{CACHE: cache_of(prompt)})
        kept = [image.kept.tolist() for image in handle.last.images]
        return handle.rehearsal, kept, prompt.logits, step.logits


@pytest.mark.parametrize(
    "method",
    ["zoo-exact", "zoo-prune", "divprune", "visionzip", "scope", "prunesid", "holov", "otprune", "fastv"],
)
@torch.no_grad()
def test_a_model_on_a_device_without_float64_answers_as_on_the_cpu(method):
    model = tiny_models.llava()
    inputs = tiny_models.llava_inputs((3, "I", 5), (2, "I", 4, "I", 3))
    _, kept, *want = answers(model, inputs, method)
    with NarrowDevice():
        there = {name: value.to(DEVICE) for name, value in inputs.items()}
        rehearsal, kept_there, *got = answers(put_on_device(model), there, method)
        assert rehearsal.startswith("rehearsed: within ")
        assert kept_there == kept
        for logits, expected in zip(got, want, strict=True):
            assert logits.device == DEVICE
            torch.testing.assert_close(logits.cpu(), expected, atol=1e-3, rtol=1e-3)


def words(path):
    """Strings and names of attributes in a file's code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Attribute):
            yield node.attr


def test_no_code_is_for_nvidias_gpus_alone():
    found = {str(path.relative_to(ROOT)): set(words(path)) for path in LIBRARY}
    assert {name for name, said in found.items() if "cuda" in said} == KNOWS_CUDA
    for name, said in found.items():
        assert said & {"mps", "xpu"} == KNOWS_FLOAT64.get(name, set()), name
